// Package squashfs reads the superblock of a squashfs filesystem: how long the
// filesystem is and how it was packed.
//
// [Read] is the only call. It believes nothing it cannot check: a superblock
// that contradicts itself is an error, not a guess.
//
// Files inside the filesystem are not read here and filesystems are not made
// here; that is for the kernel and for mksquashfs.
package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
)

const (
	// SuperSize is the size of a superblock.
	SuperSize = 96
	// MaxSize is the largest filesystem that is believed, 4 TiB. Larger sizes
	// are damage.
	MaxSize = 1 << 42

	magic       = "hsqs"
	minBlock    = 4 << 10
	maxBlock    = 1 << 20
	flagOptions = 1 << 10 // compressor options follow the superblock
)

var (
	// ErrNone says that there is no squashfs.
	ErrNone = errors.New("no squashfs")
	// ErrInvalid says that a squashfs superblock is there but is damaged.
	ErrInvalid = errors.New("invalid superblock")
	// ErrVersion says that the filesystem is not version 4.0, the only one the
	// kernel still mounts.
	ErrVersion = errors.New("unsupported version")
)

// Compressor names how blocks are compressed, as mksquashfs calls it.
type Compressor string

// The compressors of version 4.0, in the order of their numbers from 1.
const (
	Gzip Compressor = "gzip"
	LZMA Compressor = "lzma"
	LZO  Compressor = "lzo"
	XZ   Compressor = "xz"
	LZ4  Compressor = "lz4"
	Zstd Compressor = "zstd"
)

var compressors = []Compressor{Gzip, LZMA, LZO, XZ, LZ4, Zstd}

// zstdDefault is the level mksquashfs uses, and does not record, when none is
// asked for.
const zstdDefault = 15

// Super is what a superblock says.
type Super struct {
	Inodes     uint32     `json:"inodes"`
	ModTime    int64      `json:"mod_time"` // seconds since 1970
	BlockSize  int        `json:"block_size"`
	Fragments  uint32     `json:"fragments"`
	Compressor Compressor `json:"compressor"`
	Level      int        `json:"level,omitempty"` // compression level, for zstd only
	BytesUsed  int64      `json:"bytes_used"`      // length of the filesystem without padding
}

// Read reads the superblock at the start of r.
func Read(r io.ReaderAt) (*Super, error) {
	// The compressor's options may follow: a two byte header and, for zstd,
	// four bytes.
	var b [SuperSize + 6]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read squashfs superblock: %w", err)
	}
	s, err := parse(b[:n])
	if err != nil {
		return nil, fmt.Errorf("read squashfs superblock: %w", err)
	}
	return s, nil
}

func parse(b []byte) (*Super, error) {
	le := binary.LittleEndian
	if len(b) < SuperSize || string(b[:4]) != magic {
		return nil, ErrNone
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != 4 || minor != 0 {
		return nil, fmt.Errorf("%w %d.%d, want 4.0", ErrVersion, major, minor)
	}
	size, log := le.Uint32(b[12:]), le.Uint16(b[22:])
	if bits.OnesCount32(size) != 1 || size < minBlock || size > maxBlock || size != 1<<log {
		return nil, fmt.Errorf("%w: block size %d with logarithm %d", ErrInvalid, size, log)
	}
	id := le.Uint16(b[20:])
	if id < 1 || int(id) > len(compressors) {
		return nil, fmt.Errorf("%w: compressor %d", ErrInvalid, id)
	}
	used := le.Uint64(b[40:])
	if used < SuperSize || used > MaxSize {
		return nil, fmt.Errorf("%w: length %d", ErrInvalid, used)
	}
	for i, name := range []string{"id", "xattr", "inode", "directory", "fragment", "export"} {
		// Which tables may be absent is the kernel's business.
		at := le.Uint64(b[48+8*i:])
		if at != math.MaxUint64 && (at < SuperSize || at >= used) {
			return nil, fmt.Errorf("%w: %s table at %d of %d", ErrInvalid, name, at, used)
		}
	}
	s := &Super{
		Inodes:     le.Uint32(b[4:]),
		ModTime:    int64(le.Uint32(b[8:])),
		BlockSize:  int(size),
		Fragments:  le.Uint32(b[16:]),
		Compressor: compressors[id-1],
		BytesUsed:  int64(used),
	}
	if s.Compressor == Zstd {
		var err error
		if s.Level, err = zstdLevel(le.Uint16(b[24:]), b[SuperSize:]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// zstdLevel reads the level from the options, which mksquashfs writes
// uncompressed and only when they differ from the default.
func zstdLevel(flags uint16, options []byte) (int, error) {
	if flags&flagOptions == 0 {
		return zstdDefault, nil
	}
	const uncompressed = 1 << 15
	le := binary.LittleEndian
	if len(options) < 6 || le.Uint16(options) != uncompressed|4 {
		return 0, fmt.Errorf("%w: compressor options", ErrInvalid)
	}
	level := le.Uint32(options[2:])
	if level < 1 || level > 22 {
		return 0, fmt.Errorf("%w: zstd level %d", ErrInvalid, level)
	}
	return int(level), nil
}
