package esp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/OSInside/eos/internal/fat"
	"github.com/OSInside/eos/internal/fat/fattest"
	"golang.org/x/sys/unix"
)

// loop makes a block device of a file.
func loop(t *testing.T, path string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) && os.Getenv("CI") != "true" && os.Getenv("EOS_TEST_MUST_RUN") == "" {
		t.Skip("making a block device needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Skipf("there are no loop devices here: %v", err)
	}
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("loop devices cannot be used here: %v", err)
	}
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd())}); err != nil {
		dev.Close()
		t.Skipf("loop devices cannot be used here: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0), dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return name
}

// On a block device, past the caches: what was switched is on the device.
func TestExclusively(t *testing.T) {
	now, next := pattern(300_001, 1), pattern(400_000, 2)
	m := fattest.New(t, map[string][]byte{loader: now, fresh: next})
	device := loop(t, m.Path)
	err := exclusively(device, func(d fat.Device) error {
		if f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
			f.Close()
			t.Errorf("opening it a second time = %v, want %v", err, unix.EBUSY)
		}
		v, err := fat.Open(d)
		if err != nil {
			return err
		}
		if _, err := d.WriteAt(make([]byte, directBuffer+512), 0); err == nil {
			t.Error("a write of more than the buffer = nil, want an error")
		}
		return v.Switch(loader, fresh, previous)
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(b, m.Bytes(t)) {
		t.Errorf("the device does not hold what its file has: %v", err)
	}
	m.Want(t, map[string][]byte{loader: next, previous: now, fresh: nil})
	m.Check(t)
	if err := exclusively(device+"-none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("exclusively of no device = %v, want %v", err, os.ErrNotExist)
	}
}
