package earlyboot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/device"
)

// movedMounts go over to the new root, in this order. /dev comes last but /run,
// so that the log can be written up to the end.
var movedMounts = []string{"/proc", "/sys", "/dev", "/run"}

// checkInit reads the head of init, to hear about a damaged one now. Its links
// may be absolute, so they are followed by hand, inside the root.
func checkInit(root *os.Root) error {
	name := initPath[1:]
	for range 8 {
		resolved, link, err := firstLink(root, name)
		if err != nil {
			return fmt.Errorf("%s: %w", initPath, err)
		}
		if !link {
			f, err := root.Open(resolved)
			if err != nil {
				return fmt.Errorf("%s: %w", initPath, err)
			}
			defer f.Close()
			if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
				return fmt.Errorf("%s (%s) is not a program", initPath, resolved)
			}
			if _, err := f.Read(make([]byte, 4096)); err != nil {
				return fmt.Errorf("%s: %w", initPath, err)
			}
			return nil
		}
		name = resolved
	}
	return fmt.Errorf("%s: too many links", initPath)
}

// firstLink replaces the first symbolic link in a path by what it points to; if
// there is none, the path is final.
func firstLink(root *os.Root, name string) (string, bool, error) {
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		fi, err := root.Lstat(name[:i])
		if err != nil {
			return "", false, err
		}
		if fi.Mode()&os.ModeSymlink == 0 {
			continue
		}
		target, err := root.Readlink(name[:i])
		if err != nil {
			return "", false, err
		}
		if !filepath.IsAbs(target) {
			target = "/" + filepath.Join(filepath.Dir(name[:i]), target)
		}
		resolved := filepath.Join(filepath.Clean(target), name[i:])[1:]
		if resolved == "" {
			resolved = "."
		}
		return resolved, true, nil
	}
	return name, false, nil
}

// writeReport leaves what was found for the programs of the system.
func (b *Boot) writeReport() error {
	b.found.Timings = append([]device.Timing{{Step: "kernel", MS: b.kernelMS}}, b.timings...)
	return writeReport(device.BootFile, &b.found)
}

// switchRoot makes the slot the root of everything, and gives the memory of the
// initramfs back.
func (b *Boot) switchRoot() error {
	b.log.printf(levelNotice, "%s", b.summary())
	b.feedWatchdog() // systemd has all of the time-out to come up
	old, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, dir := range movedMounts {
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", dir, err)
		}
	}
	if err := unix.Chdir(sysroot); err != nil {
		return fmt.Errorf("change to the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := emptyInitramfs(old); err != nil {
		// The system runs as well without the memory.
		b.log.printf(levelWarning, "remove initramfs: %v", err)
	}
	return nil
}

// emptyInitramfs removes everything below root, provided that root is in memory and nowhere
// else, and what is removed is on it. Both have to be so; if they were not, this
// would be the one place where eos-init destroys something.
func emptyInitramfs(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("it is on a file system of type %#x", fs.Type)
	}
	self, err := dir.Stat()
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		fi, err := root.Lstat(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if deviceOf(fi) != deviceOf(self) {
			continue
		}
		errs = append(errs, root.RemoveAll(name))
	}
	return errors.Join(errs...)
}

func deviceOf(fi os.FileInfo) uint64 { return uint64(fi.Sys().(*syscall.Stat_t).Dev) }

// execInit becomes the init of the slot. The environment is the kernel's. Arguments
// are not handed on: systemd takes them from /proc/cmdline itself.
func (b *Boot) execInit() error {
	if err := unix.Exec(initPath, []string{initPath}, os.Environ()); err != nil {
		return &os.PathError{Op: "exec", Path: initPath, Err: err}
	}
	return nil
}
