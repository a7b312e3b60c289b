package torn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// geometry is what the superblock says.
type geometry struct {
	size       int64    // of the file system, in bytes
	logAt      int64    // where the journal begins, in bytes
	logSectors int64    // its length
	uuid       [16]byte // of the file system: records of the journal have it
	meta       [16]byte // that blocks have: another one after the first was changed
}

// maxLog is the longest journal that XFS has.
const maxLog = 2 << 30

var errSuper = errors.New("not a superblock of a file system that can be handled")

func readGeometry(dev io.ReaderAt) (geometry, error) {
	b := make([]byte, blockSize)
	if _, err := dev.ReadAt(b, 0); err != nil {
		return geometry{}, fmt.Errorf("read superblock: %w", err)
	}
	return parseGeometry(b)
}

// parseGeometry reads a superblock of version 5.
func parseGeometry(b []byte) (geometry, error) {
	const crcAt, hasMeta = 224, 1 << 2
	be := binary.BigEndian
	sectorSize := be.Uint16(b[102:])
	if be.Uint32(b) != 0x58465342 || be.Uint16(b[100:])&0xf != 5 || sectorSize != sector && sectorSize != blockSize ||
		sum(b[:sectorSize], crcAt) != binary.LittleEndian.Uint32(b[crcAt:]) {
		return geometry{}, errSuper
	}
	if be.Uint32(b[4:]) != blockSize || b[192] != 0 { // larger directory blocks
		return geometry{}, errSuper
	}
	var (
		blocks    = be.Uint64(b[8:])
		logStart  = be.Uint64(b[48:])
		groupSize = uint64(be.Uint32(b[84:]))
		logBlocks = uint64(be.Uint32(b[96:]))
		groupBits = b[124]
	)
	if blocks > 1<<50 || groupBits > 32 || logStart == 0 || logBlocks == 0 || logBlocks > maxLog/blockSize {
		return geometry{}, errSuper
	}
	first := logStart>>groupBits*groupSize + logStart&(1<<groupBits-1)
	if logStart>>groupBits > blocks || first > blocks || logBlocks > blocks-first {
		return geometry{}, errSuper
	}
	g := geometry{
		size: int64(blocks) * blockSize, logAt: int64(first) * blockSize, logSectors: int64(logBlocks) * blockSize / sector,
		uuid: [16]byte(b[32:]), meta: [16]byte(b[32:]),
	}
	if be.Uint32(b[216:])&hasMeta != 0 {
		g.meta = [16]byte(b[248:])
	}
	return g, nil
}
