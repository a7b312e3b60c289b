package detach_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/detach"
	"golang.org/x/sys/unix"
)

func TestMount(t *testing.T) {
	// A tmpfs is in every kernel.
	top, err := detach.Mount("tmpfs", false, detach.Option{Name: "size", Value: "4m"})
	if errors.Is(err, unix.EPERM) {
		t.Skip("mounting needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	file := detach.Path(top) + "/x"
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "hello" {
		t.Errorf("read back %q, %v, want hello", b, err)
	}
	if err := unix.Syncfs(int(top.Fd())); err != nil {
		t.Errorf("syncfs = %v, want nil", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "size=4096k") {
		t.Errorf("the mount can be seen, %v", err)
	}
	if err := top.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.ReadFile(file); err == nil {
		t.Error("the mount outlives its folder")
	}
}

func TestMountRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := detach.Mount("no-such-fs", true); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "no-such-fs") {
		t.Errorf("Mount(no-such-fs) = %v, want %v that names it", err, unix.ENODEV)
	}
	if _, err := detach.Mount("tmpfs", true, detach.Option{Name: "colour", Value: "red"}); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("Mount with an unknown option = %v, want it named", err)
	}
}
