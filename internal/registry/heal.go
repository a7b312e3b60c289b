package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/OSInside/eos/internal/registry/torn"
	"golang.org/x/sys/unix"
)

// checkLimit is how long a boot waits for the check of a file system with blocks that were torn.
const checkLimit = 2 * time.Minute

// mountHealed mounts a file system of a registry, also one with blocks that a power cut has torn: see
// package torn.
func (s *System) mountHealed(ctx context.Context, dev, at string) error {
	n, err := heal(ctx, dev, at, checkXFS)
	if n > 0 {
		s.note("blocks torn by a power cut were written again from the journal: %d", n)
	}
	if errors.Is(err, errUnchecked) {
		s.note("%v", err)
		return nil
	}
	return err
}

// errUnchecked comes with a file system that is mounted.
var errUnchecked = errors.New("the file system was not checked after that, it takes too long")

// heal mounts a file system. If the replay of its journal ends at a damaged block, the torn blocks are
// written, and it is mounted again; before it is used, check has a look at it. A power cut in here
// leaves blocks that are torn as before.
func heal(ctx context.Context, dev, at string, check func(ctx context.Context, dev string) error) (n int, err error) {
	err = mountXFS(dev, at)
	if !errors.Is(err, unix.EBADMSG) && !errors.Is(err, unix.EUCLEAN) {
		return 0, err
	}
	n, failed := mend(dev)
	if failed != nil {
		return n, fmt.Errorf("%w; %w", err, failed)
	}
	if n == 0 {
		return 0, err // it is damaged in another way
	}
	if err := mountXFS(dev, at); err != nil {
		return n, err
	}
	// The check wants a journal that is empty.
	if err := unmount(at); err != nil {
		return n, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	err = check(ctx, dev)
	slow := errors.Is(err, context.DeadlineExceeded)
	if err != nil && !slow {
		return n, fmt.Errorf("check %s after its torn blocks were written: %w", dev, err)
	}
	if err := mountXFS(dev, at); err != nil {
		return n, err
	}
	if slow {
		return n, errUnchecked // each of the blocks is proved, and the device needs its registry
	}
	return n, nil
}

// checkXFS changes nothing.
func checkXFS(ctx context.Context, dev string) error {
	_, err := output(ctx, "xfs_repair", "-n", dev)
	return err
}

// mend writes the torn blocks of a device, and returns how many.
func mend(dev string) (n int, err error) {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return 0, fmt.Errorf("mend %s: %w", dev, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// XFS writes past the cache that is read here.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return 0, fmt.Errorf("mend %s: %w", dev, err)
	}
	blocks, err := torn.Find(f)
	if err != nil {
		return 0, fmt.Errorf("mend %s: %w", dev, err)
	}
	for _, b := range blocks {
		if _, err := f.WriteAt(b.Whole, b.At); err != nil {
			return n, fmt.Errorf("mend %s: %w", dev, err)
		}
		n++
	}
	if err := f.Sync(); err != nil {
		return n, fmt.Errorf("mend %s: %w", dev, err)
	}
	return n, nil
}
