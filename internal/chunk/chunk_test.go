package chunk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

func index(t interface{ Fatal(...any) }, image []byte, cuts ...int64) *chunk.Index {
	x, err := chunk.Make(context.Background(), bytes.NewReader(image), cuts...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestMakePinned holds the chunk boundaries: devices in the field cut their
// running slot themselves, so a chunker that cuts elsewhere makes every seed
// worthless without any error.
func TestMakePinned(t *testing.T) {
	x := index(t, chunktest.Data(7, 2<<20))
	sum := sha256.New()
	for _, e := range x.Chunks {
		fmt.Fprintf(sum, "%d %d %s\n", e.Offset, e.Size, e.ID)
	}
	got := fmt.Sprintf("%d chunks, %x", len(x.Chunks), sum.Sum(nil)[:8])
	if want := pinned; got != want {
		t.Errorf("Make(pinned data) = %s, want %s", got, want)
	}
}

func TestMakeSizes(t *testing.T) {
	image := chunktest.Data(2, 8<<20)
	x := index(t, image)
	for i, e := range x.Chunks {
		if e.Size > chunk.MaxSize || e.Size < chunk.MinSize && i != len(x.Chunks)-1 {
			t.Errorf("chunk %d has %d bytes, want %d to %d", i, e.Size, chunk.MinSize, chunk.MaxSize)
		}
		if got := chunk.Sum(image[e.Offset:e.End()]); got != e.ID {
			t.Errorf("chunk %d is %s, want %s", i, got, e.ID)
		}
	}
	if avg := int(x.Size()) / len(x.Chunks); avg < chunk.AvgSize*9/10 || avg > chunk.AvgSize*11/10 {
		t.Errorf("average chunk has %d bytes, want about %d", avg, chunk.AvgSize)
	}
	if x.Size() != int64(len(image)) {
		t.Errorf("Size() = %d, want %d", x.Size(), len(image))
	}
}

func TestMakeCuts(t *testing.T) {
	image := chunktest.Data(3, 500_000)
	for _, test := range []struct {
		cuts []int64
		ok   bool
	}{
		{nil, true},
		{[]int64{500_000 - 4096}, true},
		{[]int64{1, 2, 400_000}, true},
		{[]int64{0}, false},
		{[]int64{10, 10}, false},
		{[]int64{500_000}, false},
		{[]int64{500_001}, false},
	} {
		x, err := chunk.Make(t.Context(), bytes.NewReader(image), test.cuts...)
		if (err == nil) != test.ok {
			t.Errorf("Make(500000 bytes, cuts %d) = %v, want ok %v", test.cuts, err, test.ok)
			continue
		}
		ends := map[int64]bool{}
		if err == nil {
			for _, e := range x.Chunks {
				ends[e.End()] = true
			}
			for _, cut := range test.cuts {
				if !ends[cut] {
					t.Errorf("Make(500000 bytes, cuts %d) has no chunk that ends at %d", test.cuts, cut)
				}
			}
		}
	}
}

func TestMakeReader(t *testing.T) {
	image := chunktest.Data(4, 700_000)
	want := index(t, image)
	for name, r := range map[string]io.Reader{
		"half reads":     iotest.HalfReader(bytes.NewReader(image)),
		"data with EOF":  iotest.DataErrReader(bytes.NewReader(image)),
		"byte at a time": iotest.OneByteReader(bytes.NewReader(image)),
	} {
		got, err := chunk.Make(t.Context(), r)
		if err != nil {
			t.Errorf("Make(%s) = %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Make(%s) differs (-want +got):\n%s", name, diff)
		}
	}
	broken := errors.New("broken")
	if _, err := chunk.Make(t.Context(), io.MultiReader(bytes.NewReader(image), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("Make(reader that breaks) = %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chunk.Make(ctx, bytes.NewReader(image)); !errors.Is(err, context.Canceled) {
		t.Errorf("Make(cancelled) = %v, want %v", err, context.Canceled)
	}
}

// TestMakeLocal holds what content-defined chunking is for: an insertion
// changes the chunks around it and no others.
func TestMakeLocal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		image := chunktest.Data(rapid.Uint64().Draw(t, "seed"), 2<<20)
		at := rapid.IntRange(0, len(image)).Draw(t, "at")
		size := rapid.IntRange(1, 10_000).Draw(t, "size")
		changed := bytes.Join([][]byte{image[:at], chunktest.Data(99, size), image[at:]}, nil)
		old := map[chunk.ID]bool{}
		for _, e := range index(t, image).Chunks {
			old[e.ID] = true
		}
		var fresh int64
		for _, e := range index(t, changed).Chunks {
			if !old[e.ID] {
				fresh += e.Size
			}
		}
		if limit := int64(6*chunk.AvgSize + 10_000); fresh > limit {
			t.Fatalf("insertion of %d bytes at %d made %d bytes of new chunks, want at most %d", size, at, fresh, limit)
		}
	})
}

const pinned = "125 chunks, 896e5a2ec15d15e0"
