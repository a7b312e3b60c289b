package chunk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// slotImage returns an image whose last block is a chunk of its own.
func slotImage(seed uint64, size int) []byte { return chunktest.Data(seed, size/4096*4096+4096) }

func slotIndex(t interface{ Fatal(...any) }, image []byte) *chunk.Index {
	return index(t, image, int64(len(image))-4096)
}

func seedOf(t interface{ Fatal(...any) }, image []byte) chunk.Seed {
	s, err := chunk.ScanSeed(context.Background(), bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemoryFetcher(t *testing.T) {
	chunktest.Fetchers(t, func(t *testing.T, image []byte) chunk.Fetcher {
		return &chunktest.Memory{Image: image}
	})
}

// TestAssemble holds, for any image made of pieces that the target, a seed or
// the server alone have: the target ends up right, every byte is accounted for
// once, and nothing is fetched that was at hand.
func TestAssemble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 10)
		make := func(name string) []byte {
			var b []byte
			for _, p := range pieces.Draw(t, name) {
				if p == 5 {
					b = append(b, bytes.Repeat([]byte{0}, 600_000)...)
					continue
				}
				b = append(b, chunktest.Data(uint64(p), 100_000+p*60_000)...)
			}
			return append(b, chunktest.Data(50, 4096-len(b)%4096)...)
		}
		image := append(make("image"), chunktest.Data(60, 4096)...)
		target := slotIndex(t, image)
		before := make("device")
		dev := &chunktest.Device{Bytes: append(before, bytes.Repeat([]byte{0xff}, max(0, len(image)-len(before)))...), CutAt: -1}
		seeds := []chunk.Seed{seedOf(t, make("seed"))}
		if rapid.Bool().Draw(t, "target is seed") {
			self, err := chunk.ScanSeed(context.Background(), dev, int64(len(dev.Bytes)))
			if err != nil {
				t.Fatal(err)
			}
			self.Target = true
			seeds = append(seeds, self)
		}
		server := &chunktest.Memory{Image: image}
		opts := chunk.Options{Merging: chunk.Merging{
			Gap:       rapid.SampledFrom([]int64{0, 50_000, 1 << 30}).Draw(t, "gap"),
			MaxRanges: rapid.IntRange(0, 3).Draw(t, "max ranges"),
		}, Parallel: rapid.IntRange(0, 4).Draw(t, "parallel")}
		var plan *chunk.Plan
		opts.OnPlan = func(p *chunk.Plan) error { plan = p; return nil }
		var seen bytes.Buffer
		opts.OnChunk = func(offset int64, data []byte) error {
			if offset != int64(seen.Len()) {
				t.Fatalf("OnChunk(%d) after %d bytes", offset, seen.Len())
			}
			seen.Write(data)
			return nil
		}
		stats, err := chunk.Assemble(context.Background(), dev, target, seeds, server, opts)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dev.Bytes[:len(image)], image) {
			t.Fatal("target does not hold the image")
		}
		if !bytes.Equal(seen.Bytes(), image) {
			t.Fatal("OnChunk did not see the image")
		}
		want := chunk.Stats{
			Chunks: len(target.Chunks), Kept: count(plan, chunk.Keep),
			Reused: count(plan, chunk.Copy) + count(plan, chunk.Reuse), Fetched: count(plan, chunk.Fetch),
			KeptBytes: plan.KeepBytes, ReusedBytes: plan.CopyBytes + plan.ReuseBytes,
			FetchedBytes: plan.FetchBytes + plan.ExtraBytes, Requests: len(plan.Ranges),
			WrittenBytes: stats.WrittenBytes,
		}
		if diff := cmp.Diff(want, stats); diff != "" {
			t.Fatalf("stats differ from the plan (-plan +stats):\n%s", diff)
		}
		if m := opts.Merging.MaxRanges; m > 0 && len(plan.Ranges) > m {
			t.Fatalf("%d ranges, want at most %d", len(plan.Ranges), m)
		}
		if server.Requests != len(plan.Ranges) {
			t.Fatalf("%d requests, want %d", server.Requests, len(plan.Ranges))
		}
		if stats.KeptBytes+stats.ReusedBytes+plan.FetchBytes != target.Size() {
			t.Fatalf("%d kept + %d reused + %d fetched bytes, want %d", stats.KeptBytes, stats.ReusedBytes, plan.FetchBytes, target.Size())
		}

		// Once more: nothing is written, nothing fetched.
		writes := dev.Writes
		stats, err = chunk.Assemble(context.Background(), dev, target, nil, nil, chunk.Options{})
		if err != nil || stats.Kept != stats.Chunks || dev.Writes != writes {
			t.Fatalf("second Assemble = %+v, %v with %d writes; want all kept", stats, err, dev.Writes-writes)
		}
	})
}

func count(p *chunk.Plan, a chunk.Action) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// TestAssembleTorn cuts the power at every write, in every way, and continues.
func TestAssembleTorn(t *testing.T) {
	image := slotImage(10, 1<<20)
	target := slotIndex(t, image)
	seed := seedOf(t, image[200_000:500_000])
	for fault := chunktest.Drop; fault <= chunktest.Silent; fault++ {
		for cut := 0; ; cut++ {
			dev := &chunktest.Device{Bytes: bytes.Repeat([]byte{0xff}, len(image)), CutAt: cut, Fault: fault}
			server := &chunktest.Memory{Image: image}
			first, err := chunk.Assemble(t.Context(), dev, target, []chunk.Seed{seed}, server, chunk.Options{})
			if fault != chunktest.Silent && dev.Writes > cut && !errors.Is(err, chunktest.ErrCut) {
				t.Fatalf("fault %d at write %d: Assemble = %v, want %v", fault, cut, err, chunktest.ErrCut)
			}
			done := dev.Writes <= cut
			dev.Restore()
			second, err := chunk.Assemble(t.Context(), dev, target, []chunk.Seed{seed}, server, chunk.Options{})
			if err != nil {
				t.Fatalf("fault %d at write %d: second Assemble = %v", fault, cut, err)
			}
			if !bytes.Equal(dev.Bytes, image) {
				t.Fatalf("fault %d at write %d: target does not hold the image", fault, cut)
			}
			if second.Kept < cut {
				t.Errorf("fault %d at write %d: second Assemble kept %d chunks, want at least %d (first: %+v)", fault, cut, second.Kept, cut, first)
			}
			if done {
				break
			}
		}
	}
}

func TestAssembleBadServer(t *testing.T) {
	image := slotImage(11, 600_000)
	target := slotIndex(t, image)
	gone := errors.New("gone")
	for _, test := range []struct {
		name string
		bend func(offset int64, data []byte) io.Reader
		want func(error) bool
	}{
		{"flipped bit", func(_ int64, data []byte) io.Reader {
			data = bytes.Clone(data)
			data[len(data)/2] ^= 4
			return bytes.NewReader(data)
		}, func(err error) bool {
			var e *chunk.InvalidError
			return errors.As(err, &e) && e.Source == "server"
		}},
		{"other place", func(int64, []byte) io.Reader { return bytes.NewReader(image[1:]) }, func(err error) bool {
			var e *chunk.InvalidError
			return errors.As(err, &e)
		}},
		{"short", func(_ int64, data []byte) io.Reader { return bytes.NewReader(data[:len(data)-1]) }, func(err error) bool {
			var e *chunk.MissingError
			return errors.As(err, &e) && errors.Is(err, io.ErrUnexpectedEOF)
		}},
		{"broken", func(_ int64, data []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(data[:70_000]), errReader{gone})
		}, func(err error) bool {
			var e *chunk.MissingError
			return errors.As(err, &e) && errors.Is(err, gone)
		}},
	} {
		dev := &chunktest.Device{Bytes: bytes.Repeat([]byte{0xff}, len(image)), CutAt: -1}
		_, err := chunk.Assemble(t.Context(), dev, target, nil, &chunktest.Memory{Image: image, Bend: test.bend}, chunk.Options{})
		if !test.want(err) {
			t.Errorf("Assemble(%s) = %v, a wrong error", test.name, err)
		}
		for i := range dev.Bytes {
			if dev.Bytes[i] != 0xff && dev.Bytes[i] != image[i] {
				t.Errorf("Assemble(%s) wrote a wrong byte at %d", test.name, i)
				break
			}
		}
	}
	var missing *chunk.MissingError
	dev := &chunktest.Device{Bytes: make([]byte, len(image)), CutAt: -1}
	if _, err := chunk.Assemble(t.Context(), dev, target, nil, nil, chunk.Options{}); !errors.As(err, &missing) || missing.Err != nil {
		t.Errorf("Assemble(no fetcher) = %v, want a MissingError", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestAssembleLyingSeed gives a seed whose bytes are not what its scan said.
func TestAssembleLyingSeed(t *testing.T) {
	image := slotImage(12, 900_000)
	target := slotIndex(t, image)
	seed := seedOf(t, image)
	rotten := bytes.Clone(image)
	for i := 0; i < len(rotten); i += 200_000 {
		rotten[i] ^= 1
	}
	seed.Reader = bytes.NewReader(rotten[:700_000])
	dev := &chunktest.Device{Bytes: make([]byte, len(image)), CutAt: -1}
	stats, err := chunk.Assemble(t.Context(), dev, target, []chunk.Seed{seed}, &chunktest.Memory{Image: image}, chunk.Options{})
	if err != nil || !bytes.Equal(dev.Bytes, image) {
		t.Fatalf("Assemble(rotten seed) = %v, want the image", err)
	}
	if stats.Reused == 0 || stats.Fetched == 0 || stats.Requests > stats.Fetched || stats.Requests < 4 {
		t.Errorf("Assemble(rotten seed) = %+v, want some reused and the rest fetched one by one", stats)
	}
}

func TestAssembleHoldLast(t *testing.T) {
	image := slotImage(13, 300_000)
	target := slotIndex(t, image)
	dev := &chunktest.Device{Bytes: make([]byte, len(image)), CutAt: -1}
	var last []byte
	_, err := chunk.Assemble(t.Context(), dev, target, nil, &chunktest.Memory{Image: image}, chunk.Options{
		HoldLast: true,
		OnChunk:  func(_ int64, data []byte) error { last = bytes.Clone(data); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	end := len(image) - 4096
	if !bytes.Equal(last, image[end:]) {
		t.Error("OnChunk did not get the last block as the last chunk")
	}
	if !bytes.Equal(dev.Bytes[:end], image[:end]) || !bytes.Equal(dev.Bytes[end:], make([]byte, 4096)) {
		t.Error("target does not hold all but the last block")
	}
}

func TestAssembleStops(t *testing.T) {
	image := slotImage(14, 600_000)
	target := slotIndex(t, image)
	stop := errors.New("stop")
	dev := &chunktest.Device{Bytes: make([]byte, len(image)), CutAt: -1}
	server := &chunktest.Memory{Image: image}
	_, err := chunk.Assemble(t.Context(), dev, target, nil, server, chunk.Options{OnPlan: func(*chunk.Plan) error { return stop }})
	if !errors.Is(err, stop) || dev.Writes != 0 || server.Requests != 0 {
		t.Errorf("Assemble(OnPlan refuses) = %v after %d writes, %d requests; want %v after none", err, dev.Writes, server.Requests, stop)
	}
	_, err = chunk.Assemble(t.Context(), dev, target, nil, server, chunk.Options{OnChunk: func(int64, []byte) error { return stop }})
	if !errors.Is(err, stop) {
		t.Errorf("Assemble(OnChunk refuses) = %v, want %v", err, stop)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = chunk.Assemble(ctx, dev, target, nil, server, chunk.Options{OnChunk: func(offset int64, _ []byte) error {
		if offset > 200_000 {
			cancel()
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Assemble(cancelled half-way) = %v, want %v", err, context.Canceled)
	}
	stats, err := chunk.Assemble(t.Context(), dev, target, nil, server, chunk.Options{})
	if err != nil || stats.Kept < 2 {
		t.Errorf("Assemble after a cancelled one = %+v, %v; want some kept", stats, err)
	}
}

// TestAssembleWritesOnlyDifference holds compare-before-write.
func TestAssembleWritesOnlyDifference(t *testing.T) {
	image := slotImage(15, 600_000)
	target := slotIndex(t, image)
	dev := &chunktest.Device{Bytes: bytes.Clone(image), CutAt: -1}
	e := target.Chunks[2]
	at := e.Offset + 2*4096 + 5
	dev.Bytes[at] ^= 1
	stats, err := chunk.Assemble(t.Context(), dev, target, nil, &chunktest.Memory{Image: image}, chunk.Options{})
	if err != nil || !bytes.Equal(dev.Bytes, image) {
		t.Fatalf("Assemble = %v, want the image", err)
	}
	if stats.WrittenBytes != 4096 || dev.Writes != 1 || stats.FetchedBytes != e.Size {
		t.Errorf("one byte wrong: wrote %d bytes in %d writes after fetching %d; want 4096, 1, %d", stats.WrittenBytes, dev.Writes, stats.FetchedBytes, e.Size)
	}
}

func TestMakePlanRanges(t *testing.T) {
	// Ten chunks of 10 bytes each; '.' is at hand, 'x' is missing.
	for _, test := range []struct {
		missing string
		m       chunk.Merging
		want    string // first-last of each range
		extra   int64
	}{
		{"..........", chunk.Merging{}, "", 0},
		{"xxxxxxxxxx", chunk.Merging{}, "0-9", 0},
		{"x.x..x...x", chunk.Merging{}, "0-0 2-2 5-5 9-9", 0},
		{"x.x..x...x", chunk.Merging{Gap: 9}, "0-0 2-2 5-5 9-9", 0},
		{"x.x..x...x", chunk.Merging{Gap: 10}, "0-2 5-5 9-9", 10},
		{"x.x..x...x", chunk.Merging{Gap: 20}, "0-5 9-9", 30},
		{"x.x..x...x", chunk.Merging{MaxRanges: 3}, "0-2 5-5 9-9", 10},
		{"x.x..x...x", chunk.Merging{MaxRanges: 1}, "0-9", 60},
		{"x..x.x..x.", chunk.Merging{MaxRanges: 2}, "0-5 8-8", 30},
		{"x.x.x.x.x.", chunk.Merging{MaxRanges: 3}, "0-4 6-6 8-8", 20},
	} {
		x := &chunk.Index{Min: 1, Avg: 10, Max: 10}
		kept := make([]bool, len(test.missing))
		for i, c := range test.missing {
			x.Chunks = append(x.Chunks, chunk.Entry{Offset: int64(10 * i), Size: 10, ID: chunk.Sum([]byte{byte(i)})})
			kept[i] = c == '.'
		}
		p := chunk.MakePlan(x, kept, nil, test.m)
		var got []string
		var size int64
		for _, r := range p.Ranges {
			got = append(got, string(rune('0'+r.First))+"-"+string(rune('0'+r.Last)))
			size += r.Size
			if r.Offset != x.Chunks[r.First].Offset || r.Offset+r.Size != x.Chunks[r.Last].End() {
				t.Errorf("MakePlan(%s, %+v): range %+v does not fit its chunks", test.missing, test.m, r)
			}
		}
		if s := strings.Join(got, " "); s != test.want || p.ExtraBytes != test.extra || size != p.FetchBytes+p.ExtraBytes {
			t.Errorf("MakePlan(%s, %+v) = %q with %d extra bytes, want %q with %d", test.missing, test.m, s, p.ExtraBytes, test.want, test.extra)
		}
	}
}

// TestMakePlanRepeats holds that a chunk that occurs twice is fetched once.
func TestMakePlanRepeats(t *testing.T) {
	image := make([]byte, 3*chunk.MaxSize)
	p := chunk.MakePlan(index(t, image), nil, nil, chunk.Merging{})
	var got []chunk.Action
	for _, s := range p.Steps {
		got = append(got, s.Action)
	}
	if want := []chunk.Action{chunk.Fetch, chunk.Copy, chunk.Copy}; !slices.Equal(got, want) {
		t.Errorf("MakePlan(zeros) = %v, want %v", got, want)
	}
}

func TestScanSeedBroken(t *testing.T) {
	image := chunktest.Data(16, 500_000)
	s, err := chunk.ScanSeed(t.Context(), brokenAt{image, 300_000}, int64(len(image)))
	if !errors.Is(err, io.ErrClosedPipe) || len(s.Offsets) == 0 {
		t.Errorf("ScanSeed(seed that breaks) = %d chunks, %v; want some chunks and %v", len(s.Offsets), err, io.ErrClosedPipe)
	}
}

type brokenAt struct {
	data []byte
	at   int64
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.at {
		return 0, io.ErrClosedPipe
	}
	return copy(p, b.data[off:b.at]), nil
}

// TestIndexSeed scans with the sizes of an index that others made.
func TestIndexSeed(t *testing.T) {
	image := chunktest.Data(17, 2<<20)
	want := seedOf(t, image)
	x := index(t, image)
	got, err := x.Seed(t.Context(), bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Offsets, got.Offsets); diff != "" {
		t.Errorf("Seed of our own sizes differs from ScanSeed (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		min, avg, max int64
		found         bool
	}{
		{8 << 10, 32 << 10, 128 << 10, true},
		{64 << 10, 256 << 10, 1 << 20, true},
		{1, 1, 1, false},
		{1, 2, 1 << 20, false},
		{16 << 10, 16 << 10, 16 << 10, false},
		{1 << 10, 1 << 20, 1 << 20, true},
	} {
		x := &chunk.Index{Min: test.min, Avg: test.avg, Max: test.max}
		if test.found {
			if x, err = chunk.MakeSized(t.Context(), bytes.NewReader(image), test.min, test.avg, test.max); err != nil {
				t.Fatal(err)
			}
		}
		s, err := x.Seed(t.Context(), bytes.NewReader(image), int64(len(image)))
		if err != nil || test.found && len(s.Offsets) != len(x.Chunks) || len(s.Offsets) > 0 != test.found {
			t.Errorf("Seed(%d, %d, %d) = %d chunks, %v; want found %v", test.min, test.avg, test.max, len(s.Offsets), err, test.found)
		}
		for _, e := range s.Offsets {
			if e.Size > test.max {
				t.Errorf("Seed(%d, %d, %d) has a chunk of %d bytes", test.min, test.avg, test.max, e.Size)
			}
		}
	}
}
