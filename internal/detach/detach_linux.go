// Package detach mounts a file system without attaching it anywhere: no other
// process can see it, and the kernel drops it when the last descriptor on it is
// closed, so a program that is killed leaves no mount behind.
//
// [Mount] is the only call. What is mounted is reached through [Path], or with
// the *at system calls on the returned folder. It needs root and Linux 5.2.
package detach

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Option is one mount option of a file system.
type Option struct{ Name, Value string }

// Mount mounts a file system of a kind (vfat, squashfs, ...) and returns its top
// folder; closing that ends the mount. Programs in it are not run, device files
// and set-user-id bits have no meaning.
func Mount(kind string, readOnly bool, options ...Option) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("the running kernel has no %s: %w", kind, err)
		}
		return nil, err
	}
	defer unix.Close(fs)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o.Name, o.Value); err != nil {
			return nil, fmt.Errorf("%s=%s: %w", o.Name, o.Value, because(fs, err))
		}
	}
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if readOnly {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return nil, because(fs, err)
		}
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, because(fs, err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, because(fs, err)
	}
	defer unix.Close(mnt)
	// The mount's own descriptor is a path only; syncing needs an open folder,
	// which keeps the mount as well.
	fd, err := unix.Openat(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), kind), nil
}

// Path returns the name under which this process reaches a mount's top folder
// while it is open.
func Path(top *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", top.Fd()) }

// because adds what the kernel wrote into the file system context's log, which
// says far more than the error number.
func because(fs int, err error) error {
	b := make([]byte, 1024)
	n, rerr := unix.Read(fs, b)
	if rerr != nil || n == 0 {
		return err
	}
	return fmt.Errorf("%s: %w", strings.TrimSpace(strings.TrimPrefix(string(b[:n]), "e ")), err)
}
