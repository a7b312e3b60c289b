package esp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/OSInside/eos/internal/detach"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"
)

// Mount opens the FAT file system on device without attaching it anywhere: no
// other process can see or hold it, and the kernel drops it when the last file
// descriptor goes, so a killed program leaves no mount behind. Reading mounts
// read only, so that looking at a device never writes to it. Both wait up to
// [BusyWait] for others who are in the way.
func Mount(device string, write bool) (*Volume, error) {
	f, err := mountFAT(device, !write)
	if errors.Is(err, unix.EBUSY) {
		f, err = waitFAT(device, write)
	}
	if err != nil {
		return nil, fmt.Errorf("mount EFI system partition %s: %w", device, err)
	}
	return &Volume{dir: detach.Path(f), mnt: f, name: device}, nil
}

// BusyWait is how long somebody waits for others: a write for readers, who hold the
// volume for the time it takes to read two kernel images, everybody for the moment in
// which firmware is switched.
const BusyWait = 30 * time.Second

// waitFAT mounts a volume that is in use, as soon as that can be. A commit must not
// come to grief over somebody who looks at it, most likely `os-update --status`.
func waitFAT(device string, write bool) (*os.File, error) {
	return patiently(func() (*os.File, error) {
		f, err := mountFAT(device, !write)
		if errors.Is(err, unix.EBUSY) && !write {
			// Somebody has it mounted for writing (an apply that runs, or an
			// operator). The kernel lets us share it only the same way; nothing is
			// written through ours.
			f, err = mountFAT(device, false)
		}
		return f, err
	})
}

// patiently tries to open something again while others have it.
func patiently(open func() (*os.File, error)) (*os.File, error) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 5*time.Millisecond, 50*time.Millisecond
	return backoff.Retry(context.Background(), func() (*os.File, error) {
		f, err := open()
		if err != nil && !errors.Is(err, unix.EBUSY) {
			err = backoff.Permanent(err)
		}
		return f, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(BusyWait))
}

func mountFAT(device string, readOnly bool) (*os.File, error) {
	return detach.Mount("vfat", readOnly,
		detach.Option{Name: "source", Value: device},
		detach.Option{Name: "umask", Value: "0077"},
		detach.Option{Name: "errors", Value: "remount-ro"})
}

// sync makes everything written so far durable. A FAT volume of our own is
// flushed as a whole, since fsync of a file there does not cover its folder. A
// plain folder shares its file system with others: files were synced one by one,
// the folder is what remains.
func (v *Volume) sync() error { return v.syncFolder(folder) }

func (v *Volume) syncFolder(name string) error {
	if v.mnt != nil {
		// The descriptor of a mount only names it; syncfs wants an open folder.
		d, err := os.Open(v.dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return unix.Syncfs(int(d.Fd()))
	}
	d, err := os.Open(v.Path(name))
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
