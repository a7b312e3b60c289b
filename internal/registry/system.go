package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/registry/head"
	"golang.org/x/sys/unix"
)

// Where things are on a device.
const (
	ConfigFile = "/usr/share/eos/registry.json" // made by the build
	StateFile  = "/run/eos/registry.json"       // what the last Start came to
	OKFile     = "/run/eos/registry.ok"         // there while the state is ok: for conditions of units
	LockFile   = "/run/eos/registry.lock"

	mapName     = "eos-registry"       // LUKS2 device of the built-in registry
	otherName   = "eos-registry-other" // of another disk in its place
	builtinRoot = "/run/eos/registry"  // where the built-in file system is mounted as a whole
	otherRoot   = "/run/eos/registry-other"
)

// Config is what the image says about its registry.
type Config struct {
	Policy  string `json:"policy"`
	Journal bool   `json:"journal"` // the journal is kept in the registry
}

// LoadConfig reads [ConfigFile].
func LoadConfig(path string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && c.Policy != PolicyTPM2 && c.Policy != PolicyKeyfile && c.Policy != PolicyNone {
		err = fmt.Errorf("policy %q", c.Policy)
	}
	if err != nil {
		return c, fmt.Errorf("read registry configuration %s: %w", path, err)
	}
	return c, nil
}

// System is the device the program runs on.
type System struct {
	Config Config
	Device *device.Device
	Note   func(format string, a ...any) // gets lines for people

	notes []string // of this run, for the status
}

// note tells people something that is no trouble, and keeps it for the status.
func (s *System) note(format string, a ...any) {
	line := fmt.Sprintf(format, a...)
	s.notes = append(s.notes, line)
	if s.Note != nil {
		s.Note("%s", line)
	}
}

// Lock keeps two runs that change something apart.
func Lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(LockFile), 0o755); err != nil {
		return nil, fmt.Errorf("lock registry: %w", err)
	}
	f, err := os.OpenFile(LockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock registry: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock registry: %w", err)
	}
	return func() { f.Close() }, nil
}

// run runs a program with what it says in English and without colours.
func run(ctx context.Context, c command.Cmd) error {
	c.Env = append([]string{"LC_ALL=C.UTF-8", "SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_COLOR=0", "SYSTEMD_COLORS=0"}, c.Env...)
	return command.Run(ctx, c)
}

func output(ctx context.Context, argv ...string) (string, error) {
	b, err := command.Output(ctx, command.Cmd{Argv: argv, Env: []string{"LC_ALL=C.UTF-8"}})
	return strings.TrimSpace(string(b)), err
}

// sysBlock is the kernel's folder of a block device.
func sysBlock(dev string) (string, error) {
	real, err := filepath.EvalSymlinks(dev)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks("/sys/class/block/" + strings.ReplaceAll(strings.TrimPrefix(real, "/dev/"), "/", "!"))
}

// diskOf returns the disk that a partition is on, and the partition's number; for a whole disk
// itself and 0.
func diskOf(dev string) (disk string, number int, err error) {
	sys, err := sysBlock(dev)
	if err != nil {
		return "", 0, err
	}
	text, err := os.ReadFile(sys + "/partition")
	if errors.Is(err, os.ErrNotExist) {
		return "/dev/" + strings.ReplaceAll(filepath.Base(sys), "!", "/"), 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	if number, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return "", 0, err
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(filepath.Dir(sys)), "!", "/"), number, nil
}

// sizeOf returns the size of a block device in bytes.
func sizeOf(dev string) (int64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

// classify reads the start of a device.
func (s *System) classify(dev string) (head.Kind, error) {
	f, err := os.Open(dev)
	if err != nil {
		return head.Unknown, err
	}
	defer f.Close()
	// What another program wrote through a file of another inode is read from the medium.
	_ = unix.Fadvise(int(f.Fd()), 0, head.Room, unix.FADV_DONTNEED)
	b := make([]byte, head.Room)
	if _, err := io.ReadFull(f, b); err != nil {
		return head.Unknown, err
	}
	return head.Classify(b, s.Device.DiskGUID), nil
}

// hasTPM tells whether the machine has a TPM 2.0.
func hasTPM() bool {
	v, err := os.ReadFile("/sys/class/tpm/tpm0/tpm_version_major")
	return err == nil && strings.TrimSpace(string(v)) == "2"
}

// onESP does something with the boot partition.
func (s *System) onESP(write bool, do func(*esp.Volume) error) error {
	v, err := esp.Mount(s.Device.ESP, write)
	if err != nil {
		return err
	}
	return errors.Join(do(v), v.Close())
}

// onTrial tells whether the running image was never committed.
func (s *System) onTrial() (trial bool, err error) {
	err = s.onESP(false, func(v *esp.Volume) error {
		st, err := v.State()
		trial = st.Slot(s.Device.Slot).Status != bootstate.Committed
		return err
	})
	return trial, err
}

func (s *System) readNote() (n Note, err error) {
	err = s.onESP(false, func(v *esp.Volume) error {
		b, err := v.ReadFixed(esp.RegistryNote, esp.RegistryNoteSize)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			n, err = ParseNote(b)
		}
		return err
	})
	return n, err
}

func (s *System) writeNote(n Note) error {
	b, err := n.Marshal()
	if err != nil {
		return err
	}
	return s.onESP(true, func(v *esp.Volume) error { return v.WriteFixed(esp.RegistryNote, b) })
}

// isMounted tells whether something is mounted at a folder.
func isMounted(dir string) bool { return slices.Contains(mountsAt(dir), dir) }
