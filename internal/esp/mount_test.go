package esp

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/detach"
	"golang.org/x/sys/unix"
)

// TestDetachedMount checks with a tmpfs, which every kernel has, that a volume
// that is attached nowhere can be used like any folder and is gone after Close.
func TestDetachedMount(t *testing.T) {
	f, err := detach.Mount("tmpfs", false, detach.Option{Name: "size", Value: "4m"})
	if errors.Is(err, unix.EPERM) {
		t.Skip("mounting needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	v := &Volume{dir: detach.Path(f), mnt: f, name: "x"}
	kernel := bytes.Repeat([]byte("kernel"), 10_000)
	if err := v.InstallKernel(context.Background(), "a", bytes.NewReader(kernel), int64(len(kernel))); err != nil {
		t.Error(err)
	}
	if err := v.CheckKernel("a"); err != nil {
		t.Error(err)
	}
	if err := v.SetState(bootstate.Factory()); err != nil {
		t.Error(err)
	}
	if err := v.InstallKernel(context.Background(), "b", bytes.NewReader(make([]byte, 8<<20)), 8<<20); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("InstallKernel of more than there is room for = %v, want %v", err, unix.ENOSPC)
	}
	if err := v.CheckKernel("a"); err != nil {
		t.Errorf("after a refused install: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if _, err := v.State(); err == nil {
		t.Error("State() after Close = nil error")
	}
}

func TestMountRefuses(t *testing.T) {
	if _, err := Mount(t.TempDir()+"/none", false); err == nil || !strings.Contains(err.Error(), "mount EFI system partition") {
		t.Errorf("Mount(missing) = %v, want an error that says what", err)
	}
}
