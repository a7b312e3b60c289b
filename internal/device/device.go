// Package device describes the device a program runs on: which slot the root
// comes from, which block devices the slots, the EFI system partition and the
// registry are, and which image runs.
//
// The two calls most callers need are [Load], which reads what eos-init left in
// /run/eos/boot.json, and [Device.OpenSlot]. Devices are named by what eos-init
// found by GPT identity; nothing here searches by position or by label.
//
// It changes nothing. Opening the slot that does not run for writing is
// exclusive: a slot that is mounted or mapped cannot be written by mistake.
package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/OSInside/eos/internal/bootstate"
)

// BootFile is where eos-init describes the boot.
const BootFile = "/run/eos/boot.json"

// Slot names a slot.
type Slot = bootstate.Slot

// Device is the content of [BootFile].
type Device struct {
	Slot     Slot            `json:"slot"`
	Disk     string          `json:"disk"`
	DiskGUID string          `json:"disk_guid"`
	ESP      string          `json:"esp"`
	Slots    map[Slot]string `json:"slots"`
	Registry string          `json:"registry"`
	Trial    bool            `json:"trial_flag"` // COMMIT_UPDATE was on the command line
	Mapper   string          `json:"mapper"`
	BuildID  string          `json:"build_id"`
	Version  string          `json:"version"`
	Timings  []Timing        `json:"timings"`
}

// Timing is how long one step of eos-init took.
type Timing struct {
	Step string `json:"step"`
	MS   int64  `json:"ms"`
}

// Load reads a boot description. Fields it does not know are left alone, because
// the initramfs that wrote it may be newer than this program.
func Load(path string) (*Device, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read boot description: %w", err)
	}
	d, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("read boot description %s: %w", path, err)
	}
	return d, nil
}

// Parse reads a boot description and checks what every caller relies on.
func Parse(b []byte) (*Device, error) {
	var d Device
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	if d.Slot != "a" && d.Slot != "b" {
		return nil, fmt.Errorf("slot is %q, want a or b", d.Slot)
	}
	if d.Slots[d.Slot] == "" {
		return nil, fmt.Errorf("no device for the running slot %s", d.Slot)
	}
	if d.ESP == "" {
		return nil, errors.New("no EFI system partition")
	}
	if len(d.DiskGUID) != 36 || strings.ToLower(d.DiskGUID) != d.DiskGUID {
		return nil, fmt.Errorf("disk GUID %q is not 36 lower case characters", d.DiskGUID)
	}
	if d.Slots["a"] == d.Slots["b"] {
		return nil, fmt.Errorf("slots a and b are the same device %s", d.Slots["a"])
	}
	return &d, nil
}

// Other returns the slot that does not run.
func (d *Device) Other() Slot { return d.Slot.Other() }

// NoSlotError says that the device has no such slot (the Static profile has
// only slot a).
type NoSlotError struct{ Slot Slot }

func (e *NoSlotError) Error() string {
	return fmt.Sprintf("this device has no slot %s (a disk with one slot only cannot be updated in place)", e.Slot)
}

// Block is an opened slot.
type Block struct {
	*os.File
	Size int64
}

// OpenSlot opens a slot's partition. The running slot can only be read.
func (d *Device) OpenSlot(s Slot, write bool) (*Block, error) {
	path := d.Slots[s]
	if path == "" {
		return nil, &NoSlotError{s}
	}
	if write && s == d.Slot {
		return nil, fmt.Errorf("internal error: slot %s is running and must not be written", s)
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | excl(path)
	}
	f, err := os.OpenFile(path, flags|syscall.O_CLOEXEC, 0)
	if err != nil {
		if write && errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("open slot %s (%s) for writing: it is mounted or mapped: %w", s, path, err)
		}
		return nil, fmt.Errorf("open slot %s: %w", s, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		f.Close()
		if err == nil {
			err = errors.New("it has no size")
		}
		return nil, fmt.Errorf("measure slot %s (%s): %w", s, path, err)
	}
	return &Block{File: f, Size: size}, nil
}

// excl is O_EXCL for block devices, where it means "not in use by the kernel".
// For a regular file it would mean something else.
func excl(path string) int {
	if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeDevice != 0 {
		return syscall.O_EXCL
	}
	return 0
}
