package cutdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// layer is what was written, over a base that stays as it is.
type layer struct {
	base io.ReaderAt
	f    *os.File // as large as the disk, with holes
	have []uint64 // one bit for each block that is in f
}

func (l *layer) has(block int64) bool { return l.have[block/64]&(1<<(block%64)) != 0 }

// read fills p. What is past the end of the base is zeros.
func (l *layer) read(p []byte, off int64) error {
	for len(p) > 0 {
		// As many blocks at once as come from the same place.
		here := l.has(off / blockSize)
		n := blockSize - off%blockSize
		for n < int64(len(p)) && l.has((off+n)/blockSize) == here {
			n += blockSize
		}
		n = min(n, int64(len(p)))
		var err error
		if here {
			err = readFull(l.f, p[:n], off)
		} else {
			err = readFull(l.base, p[:n], off)
		}
		if err != nil {
			return fmt.Errorf("read disk at %d: %w", off, err)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readFull fills p, with zeros from the end of r on. A nil r is empty.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n := 0
	if r != nil {
		var err error
		if n, err = r.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	clear(p[n:])
	return nil
}

// write writes p, after copying the rest of blocks that it covers in part.
func (l *layer) write(p []byte, off int64) error {
	for len(p) > 0 {
		block := off / blockSize
		n := min(blockSize-off%blockSize, int64(len(p)))
		data, at := p[:n], off
		if n < blockSize && !l.has(block) {
			whole := make([]byte, blockSize)
			if err := readFull(l.base, whole, block*blockSize); err != nil {
				return fmt.Errorf("read disk at %d: %w", off, err)
			}
			copy(whole[off%blockSize:], data)
			data, at = whole, block*blockSize
		}
		if _, err := l.f.WriteAt(data, at); err != nil {
			return fmt.Errorf("write disk: %w", err)
		}
		l.have[block/64] |= 1 << (block % 64)
		p, off = p[n:], off+n
	}
	return nil
}
