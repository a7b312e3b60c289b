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
// read only, so that looking at a device never writes to it. Writing waits up to
// [BusyWait] for others who read.
func Mount(device string, write bool) (*Volume, error) {
	ro := !write
	f, err := mountFAT(device, ro)
	switch busy := errors.Is(err, unix.EBUSY); {
	case busy && ro:
		// Somebody has it mounted for writing (an apply that runs, or an
		// operator). The kernel lets us share it only the same way; nothing is
		// written through ours.
		f, err = mountFAT(device, false)
	case busy:
		// Somebody looks at it, most likely `os-update --status`. A commit must not
		// come to grief over that.
		f, err = waitFAT(device)
	}
	if err != nil {
		return nil, fmt.Errorf("mount EFI system partition %s: %w", device, err)
	}
	return &Volume{dir: detach.Path(f), mnt: f, name: device}, nil
}

// BusyWait is how long a write waits for readers. They hold the volume for the time it
// takes to read two kernel images.
const BusyWait = 30 * time.Second

func waitFAT(device string) (*os.File, error) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 5*time.Millisecond, 50*time.Millisecond
	return backoff.Retry(context.Background(), func() (*os.File, error) {
		f, err := mountFAT(device, false)
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
