// Package chunk cuts images into content-defined chunks and rebuilds an image
// in place from chunks that are already at hand and ranges that are fetched.
//
// The two calls most callers need are [Make], which cuts a stream and returns
// its [Index], and [Assemble], which makes a file or block device hold the
// bytes an index describes. The index file format is casync's blob index
// (caibx); see docs/design/chunk-index.md.
//
//	publisher   image  -> Make -> Index -> Marshal -> file
//	device      file -> Parse -> Index -\
//	            running slot -> ScanSeed -> Assemble -> other slot
//	            server ranges -> Fetcher -/
//
// Chunks end at local maxima of a rolling hash (8 KiB at least, 16 KiB on average,
// 128 KiB at most) and are named by their SHA-256. Every chunk is verified against its name
// after it was read, whatever it was read from, and before it is written.
//
// The package does no I/O of its own except through the interfaces it is
// given. It does not fetch over a network, does not compress, and keeps no
// state file: what an interrupted Assemble left in the target is found again
// by content. Memory is bounded by a few chunks plus the index.
//
// A crash, cut or torn write at any point leaves a target that a later
// Assemble completes. An Index is safe for concurrent readers; one target
// must be given to one Assemble at a time.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Sizes of chunks that [Make] cuts of images up to 1 GiB; of larger ones all are
// larger, see sizesFor. The last chunk, one that ends at a cut the caller asked
// for, and one behind a chunk of MaxSize may be smaller than MinSize.
const (
	MinSize = AvgSize / 2
	AvgSize = 16 << 10
	MaxSize = 8 * AvgSize
)

// sizes are the numbers a chunker works with, as an index's header has them.
type sizes struct{ min, avg, max int64 }

var ours = sizes{MinSize, AvgSize, MaxSize}

// sizesFor doubles the sizes until an image of some GiB has 65536 chunks on average:
// what a device has to remember of an image is bounded then, whatever its size.
func sizesFor(image int64) sizes {
	s := ours
	for image/s.avg > 1<<16 && s.max < MaxChunkSize {
		s = sizes{2 * s.min, 2 * s.avg, 2 * s.max}
	}
	return s
}

// An ID names a chunk: the SHA-256 of its bytes.
type ID [sha256.Size]byte

// String returns the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Sum returns the ID of data.
func Sum(data []byte) ID { return sha256.Sum256(data) }

// An Entry says where in the image a chunk lies.
type Entry struct {
	Offset, Size int64
	ID           ID
}

// End returns the offset of the first byte after the chunk.
func (e Entry) End() int64 { return e.Offset + e.Size }

// An Index lists the chunks of an image in order and without gaps. Min, Avg
// and Max are the sizes the chunker worked with; no chunk is larger than Max.
// Flags are zero in an index of ours; those of casync that say nothing about
// an image are kept, so that its indexes are read as well.
type Index struct {
	Flags         uint64
	Min, Avg, Max int64
	Chunks        []Entry
}

// Size returns the size of the image.
func (x *Index) Size() int64 {
	if len(x.Chunks) == 0 {
		return 0
	}
	return x.Chunks[len(x.Chunks)-1].End()
}

// Make reads r to its end and returns the index of what it read. A chunk
// always ends at each of cuts, which must rise; the chunker starts afresh
// there. A slot image is cut at its data size, so that its manifest block is
// a chunk of its own; the last cut also says how large an image it is. A cut at or after the end of r is an error.
func Make(ctx context.Context, r io.Reader, cuts ...int64) (*Index, error) {
	s := ours
	if n := len(cuts); n > 0 {
		s = sizesFor(cuts[n-1])
	}
	x := &Index{Min: s.min, Avg: s.avg, Max: s.max}
	add := func(e Entry, _ []byte) error {
		x.Chunks = append(x.Chunks, e)
		return nil
	}
	at := int64(0)
	for _, cut := range cuts {
		if cut <= at {
			return nil, fmt.Errorf("cut image at %d: must be after %d", cut, at)
		}
		end, err := split(ctx, io.LimitReader(r, cut-at), s, at, add)
		if err != nil {
			return nil, err
		}
		if end != cut {
			return nil, fmt.Errorf("cut image at %d: it ends at %d", cut, end)
		}
		at = end
	}
	end, err := split(ctx, r, s, at, add)
	if err != nil {
		return nil, err
	}
	if len(cuts) > 0 && end == at {
		return nil, fmt.Errorf("cut image at %d: it ends there", at)
	}
	return x, nil
}
