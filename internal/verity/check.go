package verity

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// chunk is how much data Check reads at once: large enough for flash storage to
// be fast, small enough not to matter on a device with little memory.
const chunk = 1 << 20

// A CorruptError says which block is not the one that was hashed.
type CorruptError struct {
	Level int   // 0 for data, else the level of the tree, 1 being the lowest
	Block int64 // number of the block within its level
}

func (e *CorruptError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("data block %d does not match its hash", e.Block)
	}
	return fmt.Sprintf("hash block %d of level %d does not match its hash", e.Block, e.Level)
}

// Check reads data and tree and compares every block with its hash, up to root.
// The first block that does not match ends it with a [*CorruptError]. Nothing
// of the tree is used before it was compared itself, so a damaged tree is
// reported as such. Memory is bounded whatever the size. Progress, when not
// nil, is told how many bytes of data were checked since its last call.
func Check(ctx context.Context, data, tree io.ReaderAt, p Params, root [HashSize]byte, progress func(n int64)) error {
	if err := p.check(); err != nil {
		return err
	}
	c := newChecker(tree, p, root)
	buf := make([]byte, min(chunk, p.DataBlocks*BlockSize))
	for at := int64(0); at < p.DataBlocks; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(int64(len(buf)), (p.DataBlocks-at)*BlockSize)
		if err := readFull(data, buf[:n], at*BlockSize); err != nil {
			return fmt.Errorf("verity: read data: %w", err)
		}
		for i := int64(0); i < n; i += BlockSize {
			if err := c.block(0, at, buf[i:i+BlockSize]); err != nil {
				return fmt.Errorf("verity: %w", err)
			}
			at++
		}
		if progress != nil {
			progress(n)
		}
	}
	return nil
}

// A checker walks the tree along with the data. It holds the current hash
// block of each level.
type checker struct {
	hasher hasher
	tree   io.ReaderAt
	levels []level
	root   [HashSize]byte
	held   []heldBlock
}

type heldBlock struct {
	number int64 // -1 before the first one
	bytes  [BlockSize]byte
}

func newChecker(tree io.ReaderAt, p Params, root [HashSize]byte) *checker {
	ls := levels(p.DataBlocks)
	c := &checker{newHasher(p.Salt), tree, ls, root, make([]heldBlock, len(ls))}
	for i := range c.held {
		c.held[i].number = -1
	}
	return c
}

// block compares one block of the given level (0 is data) with its hash in the
// level above, which it fetches and compares first where it has to.
func (c *checker) block(lv int, number int64, block []byte) error {
	want := c.root[:]
	if lv < len(c.levels) {
		h := &c.held[lv]
		if above := number / perBlock; h.number != above {
			h.number = -1
			if err := readFull(c.tree, h.bytes[:], c.levels[lv].offset+above*BlockSize); err != nil {
				return fmt.Errorf("read hash tree: %w", err)
			}
			if err := c.block(lv+1, above, h.bytes[:]); err != nil {
				return err
			}
			h.number = above
		}
		want = h.bytes[number%perBlock*HashSize:][:HashSize]
	}
	var got [HashSize]byte
	c.hasher.sum(&got, block)
	if got != [HashSize]byte(want) {
		return &CorruptError{lv, number}
	}
	return nil
}

// readFull reads len(b) bytes or fails; an end before that is unexpected.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("at %d: %w", at+int64(n), io.ErrUnexpectedEOF)
	default:
		return err
	}
}
