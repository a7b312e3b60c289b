package registry

import (
	"errors"
	"fmt"
	"os"

	"github.com/OSInside/eos/internal/registry/torn"
	"golang.org/x/sys/unix"
)

// mountHealed mounts a file system of a registry, also one with blocks that a power cut has torn: see
// package torn.
func (s *System) mountHealed(dev, at string) error {
	n, err := heal(dev, at)
	if n > 0 {
		s.note("blocks torn by a power cut were written again from the journal: %d", n)
	}
	return err
}

// heal mounts a file system. If the replay of its journal ends at a damaged block, the torn blocks are
// written, and it is mounted again. A power cut in here leaves blocks that are torn as before.
func heal(dev, at string) (n int, err error) {
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
	return n, mountXFS(dev, at)
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
