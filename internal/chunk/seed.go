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

// ScanSeed cuts the first size bytes of r and returns them as a seed. When r
// cannot be read to the end, the seed of what could be read is returned
// together with the error: half a seed is still of use.
func ScanSeed(ctx context.Context, r io.ReaderAt, size int64) (Seed, error) {
	s := Seed{Reader: r, Offsets: make(map[ID]Entry, size/AvgSize)}
	_, err := split(ctx, io.NewSectionReader(r, 0, size), 0, func(e Entry, _ []byte) error {
		// The last place a chunk is seen at stays usable longest when the
		// seed is the target itself.
		s.Offsets[e.ID] = e
		return nil
	})
	return s, err
}
