// Package verity builds and checks dm-verity hash trees.
//
// The two calls most callers need are [NewBuilder], which makes the tree of a
// stream of data blocks, and [Check], which reads data and tree back and says
// which block does not match:
//
//	b, err := verity.NewBuilder(verity.Params{DataBlocks: n, Salt: salt})
//	_, err = io.Copy(b, data)
//	tree, root, err := b.Finish()
//
// The format is the kernel's version 1 without a superblock: SHA-256, the salt
// before the block, data and hash blocks of 4096 bytes, the highest level
// first. One data block has no tree, its own hash is the root. The bytes are
// those that veritysetup writes with --no-superblock.
//
// Other hashes, other block sizes, format 0 and forward error correction are
// not supported. Neither call starts goroutines. A Builder is for one
// goroutine; Check may run beside others on the same data.
package verity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
)

const (
	// BlockSize is the size of data blocks and of hash blocks.
	BlockSize = 4096
	// HashSize is the size of one hash.
	HashSize = sha256.Size
	// MaxSalt is the longest salt that the kernel takes.
	MaxSalt = 256
	// MaxDataBlocks bounds a tree to 4 TiB of data, far above any device and
	// far below where sizes overflow.
	MaxDataBlocks = 1 << 30

	perBlock = BlockSize / HashSize
)

// ErrParams says that no tree exists for the given parameters.
var ErrParams = errors.New("invalid parameters")

// Params is what a tree is built with. Everything else is fixed, see the
// package comment.
type Params struct {
	DataBlocks int64
	Salt       []byte
}

func (p Params) check() error {
	if p.DataBlocks < 1 || p.DataBlocks > MaxDataBlocks {
		return fmt.Errorf("verity: %w: %d data blocks, want 1 to %d", ErrParams, p.DataBlocks, MaxDataBlocks)
	}
	if len(p.Salt) > MaxSalt {
		return fmt.Errorf("verity: %w: salt of %d bytes, want at most %d", ErrParams, len(p.Salt), MaxSalt)
	}
	return nil
}

// TreeSize returns the size in bytes of the tree over n data blocks, 0 for n
// below 2.
func TreeSize(n int64) int64 {
	var blocks int64
	for _, l := range levels(n) {
		blocks += l.blocks
	}
	return blocks * BlockSize
}

// A level is one level of a tree; the first is the one that holds the hashes
// of the data blocks.
type level struct {
	blocks int64 // hash blocks in this level
	offset int64 // where the level starts in the tree, in bytes
}

// levels returns the levels of the tree over n data blocks, lowest first.
// The highest has one block. On disk they are in the opposite order.
func levels(n int64) []level {
	var ls []level
	for n > 1 {
		n = (n + perBlock - 1) / perBlock
		ls = append(ls, level{blocks: n})
	}
	var at int64
	for i := len(ls) - 1; i >= 0; i-- {
		ls[i].offset = at
		at += ls[i].blocks * BlockSize
	}
	return ls
}

// hasher computes salted hashes without allocating.
type hasher struct {
	h    hash.Hash
	salt []byte
}

func newHasher(salt []byte) hasher { return hasher{sha256.New(), salt} }

// sum puts the hash of block into out.
func (h hasher) sum(out *[HashSize]byte, block []byte) {
	h.h.Reset()
	h.h.Write(h.salt)
	h.h.Write(block)
	h.h.Sum(out[:0])
}
