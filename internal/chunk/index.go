package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits on an index read from outside.
const (
	// MaxIndexSize is the largest index file that is parsed: enough for an
	// image of 100 GB in chunks of the normal size.
	MaxIndexSize = 64 << 20
	// MaxChunkSize is the largest chunk any index may name. Assembling needs
	// a few buffers of the index's own maximum.
	MaxChunkSize = 1 << 20
)

// Numbers of the caibx format. All fields are 64-bit little endian.
const (
	indexType   = 0x96824d9c7b129ff9
	tableType   = 0xe75b9e112f17417d
	tailMarker  = 0x4b4f050e5549ecd1
	sha512Flag  = 0x2000000000000000 // set: ids are SHA-512/256; clear: SHA-256
	makerFlags  = 0xd000000000000000 // how casync walked folders; without meaning for an image
	headSize    = 48
	tableOpen   = 16 // header of the table
	itemSize    = 40
	tableLength = ^uint64(0) // the table's header cannot know its length
)

// ErrDigest says that an index names its chunks by a digest other than
// SHA-256.
var ErrDigest = errors.New("chunk ids are not SHA-256")

// A FormatError says where an index file breaks the format.
type FormatError struct {
	Offset int64
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("parse chunk index at byte %d: %s", e.Offset, e.Reason)
}

func malformed(offset int, format string, a ...any) error {
	return &FormatError{int64(offset), fmt.Sprintf(format, a...)}
}

// Marshal returns the index as a caibx file.
func (x *Index) Marshal() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, headSize+tableOpen+itemSize*(len(x.Chunks)+1))
	for _, v := range []uint64{
		headSize, indexType, x.Flags, uint64(x.Min), uint64(x.Avg), uint64(x.Max),
		tableLength, tableType,
	} {
		b = le.AppendUint64(b, v)
	}
	for _, e := range x.Chunks {
		b = le.AppendUint64(b, uint64(e.End()))
		b = append(b, e.ID[:]...)
	}
	table := uint64(len(b) - headSize + itemSize)
	for _, v := range []uint64{0, 0, headSize, table, tailMarker} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// Parse reads a caibx file. It is strict: whatever it accepts, Marshal gives
// back byte for byte. Errors are [*FormatError] or wrap [ErrDigest].
func Parse(b []byte) (*Index, error) {
	if len(b) > MaxIndexSize {
		return nil, malformed(MaxIndexSize, "larger than %d bytes", MaxIndexSize)
	}
	if len(b) < headSize+tableOpen+itemSize {
		return nil, malformed(len(b), "truncated")
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	for _, f := range []struct {
		at   int
		want uint64
		what string
	}{
		{0, headSize, "size of header"},
		{8, indexType, "type (not a chunk index)"},
		{48, tableLength, "size of table"},
		{56, tableType, "type of table"},
	} {
		if got := u64(f.at); got != f.want {
			return nil, malformed(f.at, "%s is %#x, want %#x", f.what, got, f.want)
		}
	}
	flags := u64(16)
	if flags&sha512Flag != 0 {
		return nil, fmt.Errorf("parse chunk index: %w", ErrDigest)
	}
	if flags&^makerFlags != 0 {
		return nil, malformed(16, "unknown feature flags %#x", flags)
	}
	least, normal, most := u64(24), u64(32), u64(40)
	if most > MaxChunkSize {
		return nil, malformed(40, "largest chunk is %d, limit is %d", most, MaxChunkSize)
	}
	if least < 1 || normal < least || most < normal {
		return nil, malformed(24, "chunk sizes %d, %d, %d do not rise", least, normal, most)
	}
	x := &Index{Flags: flags, Min: int64(least), Avg: int64(normal), Max: int64(most)}

	body := len(b) - headSize - tableOpen - itemSize
	if body%itemSize != 0 {
		return nil, malformed(len(b), "table is not a whole number of entries")
	}
	tail := len(b) - itemSize
	for i, want := range []uint64{0, 0, headSize, uint64(len(b) - headSize), tailMarker} {
		if at := tail + 8*i; u64(at) != want {
			return nil, malformed(at, "end of table holds %#x, want %#x", u64(at), want)
		}
	}
	if body > 0 {
		x.Chunks = make([]Entry, 0, body/itemSize)
	}
	var offset uint64
	for at := headSize + tableOpen; at < tail; at += itemSize {
		end := u64(at)
		if end <= offset || end-offset > most {
			return nil, malformed(at, "chunk ends at %d, must be 1 to %d bytes after %d", end, most, offset)
		}
		e := Entry{Offset: int64(offset), Size: int64(end - offset)}
		copy(e.ID[:], b[at+8:])
		x.Chunks = append(x.Chunks, e)
		offset = end
	}
	return x, nil
}
