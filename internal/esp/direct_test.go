package esp

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/OSInside/eos/internal/fat"
	"github.com/OSInside/eos/internal/fat/fattest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
	"golang.org/x/sys/unix"
)

// On a block device, past the caches: what was switched is on the device.
func TestExclusively(t *testing.T) {
	now, next := pattern(300_001, 1), pattern(400_000, 2)
	m := fattest.New(t, map[string][]byte{loader: now, fresh: next})
	device, detach := toolstreetest.Loop(t, m.Path, 0)
	t.Cleanup(detach)
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
