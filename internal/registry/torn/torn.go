// Package torn finds the metadata blocks of an XFS file system that a power cut has torn, and what
// they were to become.
//
// XFS writes a block of 4096 bytes in place. A disk may promise no more than sectors of 512, so a
// power cut can leave a block with its first sector new and others old. Log recovery believes the
// new sequence number (LSN) in the first sector, skips what the journal has for the block, finds
// that its checksum is wrong, and gives up the mount. Nothing is lost, though: until a block has been
// written whole, the journal keeps all its changes since the write before.
//
// [Find] reads the journal and returns the torn blocks, each made whole. It proves them: the sector
// that has reached the disk holds the checksum of the whole new block, and only a block that the
// journal's change with exactly its LSN completes to that checksum is returned. So a block that is
// damaged in another way, a journal that is, or an error in here ends in a block that is not
// returned, never in a wrong one. To write such a block is what the power cut has kept XFS from;
// if that write is torn as well, it can be done again.
//
// Not handled are blocks without an LSN of their own (inodes and quotas have one in each sector,
// remote attributes are not in the journal), what fits into its first sector anyway (superblock, AGF,
// AGI), journals on other devices, real-time sections, and directory blocks of more than one block.
//
// The format: XFS Algorithms & Data Structures, 3rd edition, "Journaling Log" and the chapters on the
// blocks; field by field it is in the kernel's fs/xfs/libxfs/xfs_format.h, xfs_da_format.h and
// xfs_log_format.h, what recovery does with an LSN in fs/xfs/xfs_buf_item_recover.c.
//
// The package only reads. It keeps no state.
package torn

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
)

// sector is what a disk writes whole, whatever else it promises, and the unit of XFS's addresses.
const sector = 512

// Block is a torn block.
type Block struct {
	At    int64  // its place on the device, in bytes
	Kind  string // what it is, by its magic
	Whole []byte // what was to be written; its first sector is as it lies on the device
}

// Find looks at each block that a change in the journal is of, and returns those that are torn, in the order of
// their places. The file system must not be mounted.
func Find(dev io.ReaderAt) ([]Block, error) {
	g, err := readGeometry(dev)
	if err != nil {
		return nil, fmt.Errorf("find torn blocks: %w", err)
	}
	j, err := openJournal(dev, g)
	if err != nil {
		return nil, fmt.Errorf("find torn blocks: %w", err)
	}
	// Two passes: the data of all changes may be more than fits into memory.
	named := map[int64]bool{}
	err = j.changes(func(int64) bool { return false }, func(c *change) { named[c.block] = !c.cancel })
	if err != nil {
		return nil, fmt.Errorf("find torn blocks: %w", err)
	}
	suspects := map[int64]*suspect{}
	for _, n := range slices.Sorted(maps.Keys(named)) {
		if !named[n] || n < 0 || n > (g.size-blockSize)/sector {
			continue // given back since, and perhaps a file's now
		}
		b := make([]byte, blockSize)
		if _, err := dev.ReadAt(b, n*sector); err != nil {
			return nil, fmt.Errorf("find torn blocks: read at %d: %w", n*sector, err)
		}
		if k, ok := suspicious(b, n, g.meta); ok {
			suspects[n] = &suspect{kind: k, lies: b}
		}
	}
	if len(suspects) == 0 {
		return nil, nil
	}
	wanted := func(n int64) bool { return suspects[n] != nil }
	err = j.changes(wanted, func(c *change) {
		if s := suspects[c.block]; s != nil && s.whole == nil && !c.cancel {
			s.whole = s.complete(c)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find torn blocks: %w", err)
	}
	var found []Block
	for _, n := range slices.Sorted(maps.Keys(suspects)) {
		if s := suspects[n]; s.whole != nil {
			found = append(found, Block{At: n * sector, Kind: s.kind.name, Whole: s.whole})
		}
	}
	return found, nil
}

// suspect is a block with a wrong checksum.
type suspect struct {
	kind  kind
	lies  []byte // on the device
	whole []byte // nil: not proved
}

// complete returns what a block becomes by the change that its LSN names, nil if that is not what its
// checksum is of. One change is enough: XFS puts into each all that was changed since the block was last
// written.
func (s *suspect) complete(c *change) []byte {
	if c.lsn != s.kind.lsnOf(s.lies) || c.length != blockSize/sector {
		return nil
	}
	// What the change does not name is as it was: on the device, or, of a block that was new, zeros.
	for _, rest := range [][]byte{s.lies[sector:], make([]byte, blockSize-sector)} {
		b := slices.Concat(s.lies[:sector], rest)
		if !c.apply(b) {
			return nil
		}
		// The checksum and LSN of the change are those of the write before.
		s.kind.keepStamp(b, s.lies)
		if bytes.Equal(b[:sector], s.lies[:sector]) && s.kind.intact(b) {
			return b
		}
	}
	return nil
}
