package chunk

import (
	"context"
	"io"
)

// MakeSized is Make with the sizes of another publisher.
func MakeSized(ctx context.Context, r io.Reader, min, avg, max int64) (*Index, error) {
	x := &Index{Min: min, Avg: avg, Max: max}
	_, err := split(ctx, r, sizes{min, avg, max}, 0, func(e Entry, _ []byte) error {
		x.Chunks = append(x.Chunks, e)
		return nil
	})
	return x, err
}
