package chunk

import (
	"context"
	"io"
)

// A Seed is something that holds chunks the target may need, such as the slot
// the system runs from. What it promises is checked again when it is read, so
// a seed that changes or lies costs a fetch and nothing else.
type Seed struct {
	Reader io.ReaderAt
	// Offsets says where in Reader a chunk was seen.
	Offsets map[ID]Entry
	// Target says that Reader is the device that is being assembled. Its
	// chunks are used only while they are not yet overwritten.
	Target bool
}

// ScanSeed cuts the first size bytes of r like [Make] does and returns them as
// a seed. When r cannot be read to the end, the seed of what could be read is
// returned together with the error: half a seed is still of use.
func ScanSeed(ctx context.Context, r io.ReaderAt, size int64) (Seed, error) {
	return scanSeed(ctx, r, size, ours, nil)
}

// Seed is [ScanSeed] with the chunk sizes that the index was made with, for the
// chunks that are in the index. A device that uses it goes on finding its chunks
// when publishers change their sizes. Sizes that Make would never use give an
// empty seed.
func (x *Index) Seed(ctx context.Context, r io.ReaderAt, size int64) (Seed, error) {
	s := sizes{x.Min, x.Avg, x.Max}
	if s.min < 1024 || s.avg <= s.min || s.max < s.avg {
		return Seed{Reader: r}, nil
	}
	wanted := make(map[ID]bool, len(x.Chunks))
	for _, e := range x.Chunks {
		wanted[e.ID] = true
	}
	return scanSeed(ctx, r, size, s, wanted)
}

// scanSeed cuts r and remembers the wanted chunks, or all if wanted is nil.
func scanSeed(ctx context.Context, r io.ReaderAt, size int64, z sizes, wanted map[ID]bool) (Seed, error) {
	s := Seed{Reader: r, Offsets: make(map[ID]Entry)}
	_, err := split(ctx, io.NewSectionReader(r, 0, size), z, 0, func(e Entry, _ []byte) error {
		// The last place a chunk is seen at stays usable longest when the
		// seed is the target itself.
		if wanted == nil || wanted[e.ID] {
			s.Offsets[e.ID] = e
		}
		return nil
	})
	return s, err
}
