package esp

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount opens the FAT file system on device without attaching it anywhere: no
// other process can see or hold it, and the kernel drops it when the last file
// descriptor goes, so a killed program leaves no mount behind. Reading mounts
// read only, so that looking at a device never writes to it.
func Mount(device string, write bool) (*Volume, error) {
	ro := !write
	fd, err := mountFAT(device, ro)
	if ro && errors.Is(err, unix.EBUSY) {
		// Somebody has it mounted for writing (an apply that runs, or an
		// operator). Share that mount, ours stays read only.
		fd, err = mountFAT(device, false)
	}
	if err != nil {
		return nil, fmt.Errorf("mount EFI system partition %s: %w", device, err)
	}
	f := os.NewFile(uintptr(fd), device)
	return &Volume{dir: fmt.Sprintf("/proc/self/fd/%d", fd), mnt: f, name: device}, nil
}

// mountFAT makes a detached mount and returns its root directory.
func mountFAT(device string, ro bool) (int, error) {
	fs, err := unix.Fsopen("vfat", unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return -1, fmt.Errorf("the running kernel has no vfat: %w", err)
		}
		return -1, err
	}
	defer unix.Close(fs)
	for _, opt := range [][2]string{
		{"source", device},
		{"umask", "0077"},
		{"errors", "remount-ro"},
	} {
		if err := unix.FsconfigSetString(fs, opt[0], opt[1]); err != nil {
			return -1, fmt.Errorf("%s=%s: %w", opt[0], opt[1], because(fs, err))
		}
	}
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if ro {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return -1, because(fs, err)
		}
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, because(fs, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, because(fs, err)
	}
	return fd, nil
}

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

// sync makes everything written so far durable. A FAT volume of our own is
// flushed as a whole, since fsync of a file there does not cover its folder. A
// plain folder shares its file system with others: files were synced one by one,
// the folder is what remains.
func (v *Volume) sync() error {
	if v.mnt != nil {
		// The descriptor of a mount only names it; syncfs wants an open folder.
		d, err := os.Open(v.dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Syncfs(int(d.Fd()))
	}
	d, err := os.Open(v.Path(folder))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// forget asks the kernel to drop a file's cached pages, so that the next read
// comes from the disk.
func forget(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint: a read from the cache is still a read
}
