package chunk_test

import (
	"bytes"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// chunks makes an index of chunks of a size each, and kept of a text with '.' for what is there.
func chunks(text string, size int64) (x *chunk.Index, kept []bool) {
	x = &chunk.Index{Min: 1, Avg: size, Max: size}
	for i, c := range text {
		x.Chunks = append(x.Chunks, chunk.Entry{Offset: size * int64(i), Size: size, ID: chunk.Sum([]byte{byte(i), byte(i >> 8)})})
		kept = append(kept, c == '.')
	}
	return x, kept
}

func TestOrFullImage(t *testing.T) {
	const cost = chunk.RequestCost
	for _, test := range []struct {
		missing string
		size    int64 // of a chunk
		m       chunk.Merging
		full    bool
	}{
		{"..........", 1000, chunk.Merging{}, false},     // nothing to fetch
		{"xxxxxxxxxx", 1000, chunk.Merging{}, true},      // it is the whole image
		{".xxxxxxxxx", 1000, chunk.Merging{}, false},     // one request either way
		{"xxxxxxxxx.", 1, chunk.Merging{}, false},        //
		{"xxxx.xxxxx", cost + 1, chunk.Merging{}, false}, // the request is cheaper than the bytes
		{"xxxx.xxxxx", cost, chunk.Merging{}, true},      // they cost the same
		{"xxxx.xxxxx", cost - 1, chunk.Merging{}, true},  // the bytes are cheaper
		{"x.x.x.x.x.", cost, chunk.Merging{}, false},     // nine requests and five chunks
		{"x.x.x.x.xx", cost, chunk.Merging{}, true},      //
		{"x.x.x.x.xx", 1 << 20, chunk.Merging{Gap: 1}, false},
		{"x.x.x.x.xx", 1 << 20, chunk.Merging{Gap: 1 << 20}, true}, // merged to all of it
		{"x........x", 1 << 20, chunk.Merging{MaxRanges: 1}, true},
	} {
		x, kept := chunks(test.missing, test.size)
		p := chunk.MakePlan(x, kept, nil, test.m)
		got := p.OrFullImage(x)
		if got.FullImage != test.full || !test.full && got != p {
			t.Errorf("MakePlan(%s of %d, %+v).OrFullImage() = %+v, want full %v", test.missing, test.size, test.m, got, test.full)
		}
		if test.full && (len(got.Ranges) != 1 || got.Ranges[0] != chunk.Range{Offset: 0, Size: x.Size(), First: 0, Last: len(x.Chunks) - 1} || count(got, chunk.Fetch) != len(x.Chunks)) {
			t.Errorf("MakePlan(%s of %d, %+v).OrFullImage() = %+v, want one range over all", test.missing, test.size, test.m, got)
		}
	}
}

// TestPlanCost holds, for whatever is there: what is chosen costs no more than either of what there
// is to choose from, never has more ranges than it may, and its numbers are those of its ranges.
func TestPlanCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(1, 40_000), 1, 400).Draw(t, "sizes")
		there := rapid.SliceOfN(rapid.Bool(), len(sizes), len(sizes)).Draw(t, "there")
		same := rapid.SliceOfN(rapid.IntRange(0, 900), len(sizes), len(sizes)).Draw(t, "contents")
		m := chunk.Merging{Gap: rapid.Int64Range(0, 40_000).Draw(t, "gap"), MaxRanges: rapid.IntRange(0, 150).Draw(t, "ranges")}
		x := &chunk.Index{Min: 1, Avg: 1, Max: 40_000}
		seen := map[int]int64{}
		for i, size := range sizes {
			if s, ok := seen[same[i]]; ok {
				size = s
			}
			seen[same[i]] = size
			x.Chunks = append(x.Chunks, chunk.Entry{Offset: x.Size(), Size: size, ID: chunk.Sum([]byte{byte(same[i]), byte(same[i] >> 8)})})
		}
		plan := chunk.MakePlan(x, there, nil, m)
		got := plan.OrFullImage(x)
		whole := x.Size() + chunk.RequestCost
		if got.Cost() > plan.Cost() || got.Cost() > whole {
			t.Fatalf("chosen plan costs %d, the chunks %d, the whole image %d", got.Cost(), plan.Cost(), whole)
		}
		if m.MaxRanges > 0 && len(got.Ranges) > m.MaxRanges {
			t.Fatalf("%d ranges, want at most %d", len(got.Ranges), m.MaxRanges)
		}
		var bytes int64
		for _, r := range got.Ranges {
			bytes += r.Size
		}
		if bytes != got.FetchBytes+got.ExtraBytes || got.KeepBytes+got.CopyBytes+got.ReuseBytes+got.FetchBytes != x.Size() {
			t.Fatalf("plan %+v: its sums are not right", got)
		}
	})
}

// TestAssembleFullImage lacks one byte at either end, and fills the gap between: the whole image comes
// in one request, and what was in its place is not written again.
func TestAssembleFullImage(t *testing.T) {
	image := slotImage(40, 600_000)
	target := slotIndex(t, image)
	dev := &chunktest.Device{Bytes: bytes.Clone(image), CutAt: -1}
	dev.Bytes[0] ^= 1
	dev.Bytes[len(image)-1] ^= 1
	server := &chunktest.Memory{Image: image}
	var plan *chunk.Plan
	stats, err := chunk.Assemble(t.Context(), dev, target, nil, server, chunk.Options{
		Merging: chunk.Merging{MaxRanges: 1}, OnPlan: func(p *chunk.Plan) error { plan = p; return nil },
	})
	if err != nil || !bytes.Equal(dev.Bytes, image) || !plan.FullImage {
		t.Fatalf("Assemble = %+v, %v, full image %v; want the image, as a whole", stats, err, plan.FullImage)
	}
	if server.Requests != 1 || stats.FetchedBytes != target.Size() || stats.WrittenBytes != 2*4096 {
		t.Errorf("Assemble = %+v in %d requests, want one and two blocks written", stats, server.Requests)
	}
}

// TestRequestsBounded gives a device that nothing can be relied on: what its seeds and the target
// itself were seen to hold is not there when it is wanted. There are no more than 200 requests all
// the same, the device's metadata included.
func TestRequestsBounded(t *testing.T) {
	const metadata = 6 // root, timestamp, snapshot, targets, manifest, index
	image := slotImage(41, 60<<20)
	target := slotIndex(t, image)
	seed := seedOf(t, image)
	for i, e := range target.Chunks { // three quarters of the chunks are in the seed, or so it says
		if i%4 == 3 {
			delete(seed.Offsets, e.ID)
		}
	}
	for name, reader := range map[string]io.ReaderAt{
		"right":        bytes.NewReader(image),
		"lying":        bytes.NewReader(make([]byte, len(image))),
		"broken":       brokenAt{image, 0},
		"lying midway": brokenAt{image, int64(len(image) / 2)},
	} {
		seed.Reader = reader
		dev := &chunktest.Device{Bytes: make([]byte, len(image)), CutAt: -1}
		server := &chunktest.Memory{Image: image}
		stats, err := chunk.Assemble(t.Context(), dev, target, []chunk.Seed{seed}, server, chunk.Options{
			Merging: chunk.Merging{Gap: 32 << 10, MaxRanges: 150}, Parallel: 3,
		})
		if err != nil || !bytes.Equal(dev.Bytes, image) {
			t.Errorf("%s seed: Assemble = %v, want the image", name, err)
		}
		if n := server.Requests + metadata; n > 200 || server.Requests < 100 && name == "right" {
			t.Errorf("%s seed: %d requests (%+v), want at most 200", name, n, stats)
		}
	}
}
