package device

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sync writes everything to the medium, the disk's own cache included.
func (b *Block) Sync() error {
	if err := b.File.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", b.Name(), err)
	}
	return nil
}

// blkFlsBuf is BLKFLSBUF: flush a block device's buffers and forget them.
const blkFlsBuf = 0x1261

// DropCache makes the next reads come from the medium instead of from memory.
// What is not written yet is written first.
func (b *Block) DropCache() error {
	if err := b.Sync(); err != nil {
		return err
	}
	err := unix.IoctlSetInt(int(b.Fd()), blkFlsBuf, 0)
	if err == nil {
		return nil
	}
	// A regular file (tests, images) has no such call. EACCES: not root.
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) {
		err = unix.Fadvise(int(b.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	if err != nil {
		return fmt.Errorf("drop cache of %s: %w", b.Name(), err)
	}
	return nil
}
