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
// Chunks are found with FastCDC (16 KiB at least, below 64 KiB on average,
// 256 KiB at most) and named by their SHA-256. Every chunk is verified against its name
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

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm below
)

// Sizes of chunks that [Make] cuts. The last chunk, and a chunk that ends at
// a cut the caller asked for, may be smaller than MinSize.
const (
	MinSize = 16 << 10
	AvgSize = 64 << 10
	MaxSize = 256 << 10
)

// sizes are the numbers a chunker works with, as an index's header has them.
type sizes struct{ min, avg, max int64 }

var ours = sizes{MinSize, AvgSize, MaxSize}

// normal is the size that FastCDC calls normal. Chunks come out larger on
// average, and what an update fetches grows with the average: with three
// quarters the promised average is kept.
func (s sizes) normal() int64 { return s.avg / 4 * 3 }

// algorithm is the spec-faithful variant: the plain name selects fixed masks
// made for 8 KiB chunks whatever sizes are asked for.
const algorithm = "fastcdc-v1.0.0"

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
// a chunk of its own. A cut at or after the end of r is an error.
func Make(ctx context.Context, r io.Reader, cuts ...int64) (*Index, error) {
	x := &Index{Min: MinSize, Avg: AvgSize, Max: MaxSize}
	add := func(e Entry, _ []byte) error {
		x.Chunks = append(x.Chunks, e)
		return nil
	}
	at := int64(0)
	for _, cut := range cuts {
		if cut <= at {
			return nil, fmt.Errorf("cut image at %d: must be after %d", cut, at)
		}
		end, err := split(ctx, io.LimitReader(r, cut-at), ours, at, add)
		if err != nil {
			return nil, err
		}
		if end != cut {
			return nil, fmt.Errorf("cut image at %d: it ends at %d", cut, end)
		}
		at = end
	}
	end, err := split(ctx, r, ours, at, add)
	if err != nil {
		return nil, err
	}
	if len(cuts) > 0 && end == at {
		return nil, fmt.Errorf("cut image at %d: it ends there", at)
	}
	return x, nil
}

// split cuts r into chunks, the first of which lies at offset, and gives each
// to fn. It returns the offset at the end of r.
func split(ctx context.Context, r io.Reader, s sizes, offset int64, fn func(Entry, []byte) error) (int64, error) {
	c, err := chunkers.NewChunker(algorithm, r, &chunkers.ChunkerOpts{
		MinSize: int(s.min), NormalSize: int(s.normal()), MaxSize: int(s.max),
	})
	if err != nil {
		return offset, fmt.Errorf("internal error: set up chunker: %w", err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return offset, err
		}
		data, err := c.Next()
		if err != nil && err != io.EOF {
			return offset, fmt.Errorf("read image at %d: %w", offset, err)
		}
		if len(data) > 0 {
			e := Entry{Offset: offset, Size: int64(len(data)), ID: Sum(data)}
			if err := fn(e, data); err != nil {
				return offset, err
			}
			offset = e.End()
		}
		if err == io.EOF {
			return offset, nil
		}
	}
}
