package esp

import (
	"errors"
	"fmt"
	"os"

	"github.com/OSInside/eos/internal/detach"
	"github.com/OSInside/eos/internal/fat"
	"golang.org/x/sys/unix"
)

// unmounted lets go of the mount, gives f the entries of the volume, which nobody can
// mount meanwhile, and mounts it again.
func (v *Volume) unmounted(f func(entries) error) error {
	if v.mnt == nil {
		return f(folderEntries{v.dir})
	}
	mnt := v.mnt
	v.mnt, v.dir = nil, "/proc/self/fd/none" // where nothing is, should mounting fail
	if err := mnt.Close(); err != nil {
		return err
	}
	if err := exclusively(v.name, func(d fat.Device) error {
		x, err := fat.Open(d)
		if err != nil {
			return err
		}
		return f(fatEntries{x})
	}); err != nil {
		return err
	}
	mnt, err := waitFAT(v.name, true)
	if err != nil {
		return fmt.Errorf("mount it again: %w", err)
	}
	v.mnt, v.dir = mnt, detach.Path(mnt)
	return nil
}

// exclusively opens a block device that nobody has mounted, and keeps it so.
func exclusively(device string, f func(fat.Device) error) (err error) {
	open, err := patiently(func() (*os.File, error) {
		return os.OpenFile(device, os.O_RDWR|os.O_SYNC|unix.O_EXCL|unix.O_DIRECT, 0)
	})
	if err != nil {
		return fmt.Errorf("open it for ourselves alone (is it mounted?): %w", err)
	}
	defer func() { err = errors.Join(err, open.Close()) }()
	// Memory from the kernel begins with a page, as direct reads and writes want it.
	buf, err := unix.Mmap(-1, 0, directBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	return f(&direct{open, buf})
}

const directBuffer = 256 << 10

// direct reads and writes whole sectors of the medium itself, past all caches of the
// kernel: what it reads is there, and what it writes is nothing but what it was given.
type direct struct {
	f   *os.File
	buf []byte
}

func (d *direct) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		part := min(len(p)-n, len(d.buf))
		part, err = d.f.ReadAt(d.buf[:part], off+int64(n))
		n += copy(p[n:], d.buf[:part])
	}
	return n, err
}

func (d *direct) WriteAt(p []byte, off int64) (int, error) {
	if len(p) > len(d.buf) {
		return 0, errors.New("internal error: a write of more than a sector")
	}
	return d.f.WriteAt(d.buf[:copy(d.buf, p)], off)
}

// Sync empties the medium's own cache too.
func (d *direct) Sync() error { return d.f.Sync() }
