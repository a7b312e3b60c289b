package verity

import (
	"errors"
	"fmt"
	"slices"
)

// ErrLength says that a Builder got more or less data than its parameters say.
var ErrLength = errors.New("wrong length of data")

// A Builder makes the tree of data written to it in order. It holds the hashes
// of the lowest level (32 bytes for each 4096 of data) and one block of data,
// nothing else.
type Builder struct {
	params  Params
	hasher  hasher
	levels  []level
	tree    []byte // whole tree; the lowest level is filled as data arrives
	lowest  []byte // the part of tree that holds the lowest level
	root    [HashSize]byte
	blocks  int64 // data blocks hashed so far
	partial []byte
}

// NewBuilder returns a Builder for exactly p.DataBlocks blocks.
func NewBuilder(p Params) (*Builder, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	p.Salt = slices.Clone(p.Salt)
	b := &Builder{
		params:  p,
		hasher:  newHasher(p.Salt),
		levels:  levels(p.DataBlocks),
		tree:    make([]byte, TreeSize(p.DataBlocks)),
		partial: make([]byte, 0, BlockSize),
	}
	if len(b.levels) > 0 {
		b.lowest = b.tree[b.levels[0].offset:]
	}
	return b, nil
}

// Write adds data. Writes may be of any size.
func (b *Builder) Write(data []byte) (int, error) {
	written := 0
	for len(data) > 0 {
		if b.blocks == b.params.DataBlocks {
			return written, fmt.Errorf("verity: %w: more than %d blocks", ErrLength, b.params.DataBlocks)
		}
		if len(b.partial) == 0 && len(data) >= BlockSize {
			b.add(data[:BlockSize])
			data, written = data[BlockSize:], written+BlockSize
			continue
		}
		n := min(BlockSize-len(b.partial), len(data))
		b.partial = append(b.partial, data[:n]...)
		data, written = data[n:], written+n
		if len(b.partial) == BlockSize {
			b.add(b.partial)
			b.partial = b.partial[:0]
		}
	}
	return written, nil
}

// add hashes the next data block. With a single data block the hash is the
// root itself.
func (b *Builder) add(block []byte) {
	b.hasher.sum(&b.root, block)
	if b.lowest != nil {
		copy(b.lowest[b.blocks*HashSize:], b.root[:])
	}
	b.blocks++
}

// Finish returns the tree and its root hash. The Builder is of no use
// afterwards.
func (b *Builder) Finish() (tree []byte, root [HashSize]byte, err error) {
	if b.blocks != b.params.DataBlocks || len(b.partial) > 0 {
		return nil, root, fmt.Errorf("verity: %w: %d bytes, want %d blocks of %d",
			ErrLength, b.blocks*BlockSize+int64(len(b.partial)), b.params.DataBlocks, BlockSize)
	}
	root = b.root
	for i, l := range b.levels {
		for n := range l.blocks {
			at := l.offset + n*BlockSize
			b.hasher.sum(&root, b.tree[at:at+BlockSize])
			if i+1 < len(b.levels) {
				copy(b.tree[b.levels[i+1].offset+n*HashSize:], root[:])
			}
		}
	}
	return b.tree, root, nil
}
