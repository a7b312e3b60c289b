package verity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/verity"
)

// naive builds the tree as the kernel's documentation tells it, level by level
// from the lowest, and puts the highest first.
func naive(data, salt []byte) (tree []byte, root [32]byte) {
	for level := data; ; {
		var hashes []byte
		for block := range slices.Chunk(level, verity.BlockSize) {
			root = sha256.Sum256(slices.Concat(salt, block))
			hashes = append(hashes, root[:]...)
		}
		if len(level) == verity.BlockSize {
			return tree, root
		}
		level = append(hashes, make([]byte, -len(hashes)&(verity.BlockSize-1))...)
		tree = slices.Concat(level, tree)
	}
}

// fill returns n blocks of which every one differs.
func fill(n int64, seed uint64) []byte {
	data := make([]byte, n*verity.BlockSize)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < len(data); i += verity.BlockSize {
		for j := range 4 {
			data[i+j*1000] = byte(r.Uint32())
		}
		data[i+8], data[i+9], data[i+10] = byte(i>>12), byte(i>>20), byte(i>>28)
	}
	return data
}

func build(t testing.TB, data, salt []byte) (tree []byte, root [32]byte) {
	t.Helper()
	b, err := verity.NewBuilder(verity.Params{DataBlocks: int64(len(data) / verity.BlockSize), Salt: salt})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(data); err != nil {
		t.Fatal(err)
	}
	tree, root, err = b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return tree, root
}

// edges are block counts around the places where a hash block or a level
// begins.
var edges = []int64{1, 2, 127, 128, 129, 255, 256, 257, 128*3 + 1, 16383, 16384, 16385}

func TestTreeSize(t *testing.T) {
	for _, tt := range []struct{ blocks, want int64 }{
		{-1, 0}, {0, 0}, {1, 0}, {2, 1}, {128, 1}, {129, 3}, {256, 3}, {257, 4},
		{16384, 129}, {16385, 129 + 1 + 2}, {1 << 21, 16384 + 128 + 1}, {1<<21 + 1, 16385 + 129 + 2 + 1},
	} {
		if got := verity.TreeSize(tt.blocks); got != tt.want*verity.BlockSize {
			t.Errorf("TreeSize(%d) = %d, want %d blocks", tt.blocks, got, tt.want)
		}
	}
}

func TestBuilderAtEdges(t *testing.T) {
	for _, n := range edges {
		data, salt := fill(n, 7), []byte("salt")
		wantTree, wantRoot := naive(data, salt)
		tree, root := build(t, data, salt)
		if root != wantRoot || !bytes.Equal(tree, wantTree) {
			t.Errorf("tree of %d blocks differs from the naive one (root %x, want %x)", n, root, wantRoot)
		}
		if got := int64(len(tree)); got != verity.TreeSize(n) {
			t.Errorf("tree of %d blocks has %d bytes, TreeSize says %d", n, got, verity.TreeSize(n))
		}
	}
}

// TestBuilderAndCheckAgree draws sizes, writes in uneven pieces, then flips one
// bit in data or tree and expects to hear which block it was.
func TestBuilderAndCheckAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64Range(1, 600), rapid.SampledFrom(edges[:9])).Draw(t, "blocks")
		salt := rapid.SliceOfN(rapid.Byte(), 0, verity.MaxSalt).Draw(t, "salt")
		data := fill(n, rapid.Uint64().Draw(t, "seed"))
		p := verity.Params{DataBlocks: n, Salt: salt}
		b, err := verity.NewBuilder(p)
		if err != nil {
			t.Fatal(err)
		}
		for rest := data; len(rest) > 0; {
			k := min(len(rest), rapid.IntRange(1, 1<<20).Draw(t, "piece"))
			if _, err := b.Write(rest[:k]); err != nil {
				t.Fatal(err)
			}
			rest = rest[k:]
		}
		tree, root, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		wantTree, wantRoot := naive(data, salt)
		if root != wantRoot || !bytes.Equal(tree, wantTree) {
			t.Fatalf("root = %x, want %x", root, wantRoot)
		}
		check := func() error {
			return verity.Check(context.Background(), bytes.NewReader(data), bytes.NewReader(tree), p, root, nil)
		}
		if err := check(); err != nil {
			t.Fatal(err)
		}
		bit := rapid.IntRange(0, 8*(len(data)+len(tree))-1).Draw(t, "bit")
		flipped := &data
		at := bit / 8
		if at >= len(data) {
			flipped, at = &tree, at-len(data)
		}
		(*flipped)[at] ^= 1 << (bit % 8)
		var corrupt *verity.CorruptError
		if err := check(); !errors.As(err, &corrupt) {
			t.Fatalf("Check with bit %d flipped: %v, want a CorruptError", bit, err)
		}
		if flipped == &data && (corrupt.Level != 0 || corrupt.Block != int64(at/verity.BlockSize)) {
			t.Fatalf("Check with a bit of data block %d flipped: %v", at/verity.BlockSize, corrupt)
		}
		if flipped == &tree && corrupt.Level == 0 {
			t.Fatalf("Check with a bit of the tree flipped blames the data: %v", corrupt)
		}
	})
}

func TestCheckNamesTheBlock(t *testing.T) {
	const n = 129 // two hash blocks at level 1, one at level 2 which comes first
	data, salt := fill(n, 3), []byte{1, 2, 3}
	tree, root := build(t, data, salt)
	p := verity.Params{DataBlocks: n, Salt: salt}
	for _, tt := range []struct {
		name       string
		in         []byte
		at         int64
		level      int
		block      int64
		wantSuffix string
	}{
		{"first data", data, 0, 0, 0, "data block 0 does not match its hash"},
		{"last data", data, n*verity.BlockSize - 1, 0, n - 1, "data block 128 does not match its hash"},
		{"top", tree, 5, 2, 0, "hash block 0 of level 2 does not match its hash"},
		{"unused part of top", tree, 4095, 2, 0, "hash block 0 of level 2 does not match its hash"},
		{"second of level 1", tree, 2 * verity.BlockSize, 1, 1, "hash block 1 of level 1 does not match its hash"},
	} {
		tt.in[tt.at] ^= 0x10
		err := verity.Check(t.Context(), bytes.NewReader(data), bytes.NewReader(tree), p, root, nil)
		tt.in[tt.at] ^= 0x10
		var corrupt *verity.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Level != tt.level || corrupt.Block != tt.block {
			t.Errorf("%s: Check = %v, want level %d block %d", tt.name, err, tt.level, tt.block)
			continue
		}
		if want := "verity: " + tt.wantSuffix; err.Error() != want {
			t.Errorf("%s: Check = %q, want %q", tt.name, err, want)
		}
	}
	root[0]++
	if err := verity.Check(t.Context(), bytes.NewReader(data), bytes.NewReader(tree), p, root, nil); err == nil {
		t.Error("Check with another root = nil, want an error")
	}
}

func TestCheckProgressAndCancel(t *testing.T) {
	const n = 600
	data := fill(n, 3)
	tree, root := build(t, data, nil)
	p := verity.Params{DataBlocks: n}
	var sum int64
	ctx, cancel := context.WithCancel(t.Context())
	err := verity.Check(ctx, bytes.NewReader(data), bytes.NewReader(tree), p, root, func(n int64) { sum += n })
	if err != nil || sum != int64(len(data)) {
		t.Errorf("Check = %v with progress of %d bytes, want nil and %d", err, sum, len(data))
	}
	sum = 0
	err = verity.Check(ctx, bytes.NewReader(data), bytes.NewReader(tree), p, root, func(n int64) { sum += n; cancel() })
	if !errors.Is(err, context.Canceled) || sum >= int64(len(data)) {
		t.Errorf("Check cancelled after the first call = %v after %d bytes, want %v earlier", err, sum, context.Canceled)
	}
}

type failingReader struct{ error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.error }

func TestCheckReadErrors(t *testing.T) {
	data := fill(4, 3)
	tree, root := build(t, data, nil)
	p := verity.Params{DataBlocks: 4}
	for _, tt := range []struct {
		name       string
		data, tree io.ReaderAt
		want       error
	}{
		{"short data", bytes.NewReader(data[:len(data)-1]), bytes.NewReader(tree), io.ErrUnexpectedEOF},
		{"short tree", bytes.NewReader(data), bytes.NewReader(tree[:100]), io.ErrUnexpectedEOF},
		{"bad disk", failingReader{iotest.ErrTimeout}, bytes.NewReader(tree), iotest.ErrTimeout},
		{"bad disk under tree", bytes.NewReader(data), failingReader{iotest.ErrTimeout}, iotest.ErrTimeout},
	} {
		err := verity.Check(t.Context(), tt.data, tt.tree, p, root, nil)
		var corrupt *verity.CorruptError
		if !errors.Is(err, tt.want) || errors.As(err, &corrupt) {
			t.Errorf("%s: Check = %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestBuilderLength(t *testing.T) {
	for _, tt := range []struct {
		name string
		len  int
	}{
		{"nothing", 0}, {"a block less", verity.BlockSize}, {"a byte less", 2*verity.BlockSize - 1},
		{"a byte more", 2*verity.BlockSize + 1}, {"a block more", 3 * verity.BlockSize},
	} {
		b, err := verity.NewBuilder(verity.Params{DataBlocks: 2})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Write(make([]byte, tt.len))
		if err == nil {
			_, _, err = b.Finish()
		}
		if !errors.Is(err, verity.ErrLength) {
			t.Errorf("%s: Write and Finish = %v, want ErrLength", tt.name, err)
		}
	}
}

func TestParams(t *testing.T) {
	for _, p := range []verity.Params{
		{DataBlocks: 0}, {DataBlocks: -1}, {DataBlocks: verity.MaxDataBlocks + 1},
		{DataBlocks: 1, Salt: make([]byte, verity.MaxSalt+1)},
	} {
		if _, err := verity.NewBuilder(p); !errors.Is(err, verity.ErrParams) {
			t.Errorf("NewBuilder(%d blocks, salt of %d) = %v, want ErrParams", p.DataBlocks, len(p.Salt), err)
		}
		r := bytes.NewReader(nil)
		if err := verity.Check(t.Context(), r, r, p, [32]byte{}, nil); !errors.Is(err, verity.ErrParams) {
			t.Errorf("Check(%d blocks, salt of %d) = %v, want ErrParams", p.DataBlocks, len(p.Salt), err)
		}
	}
}

// TestBuilderMemory holds the builder to the lowest level's hashes: an image
// of 150 MB must not cost a device more than a hundredth of it.
func TestBuilderMemory(t *testing.T) {
	const n = 150_000_000 / verity.BlockSize
	block := make([]byte, verity.BlockSize)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b, err := verity.NewBuilder(verity.Params{DataBlocks: n, Salt: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := b.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(1_300_000); got > limit {
		t.Errorf("building the tree of 150 MB allocated %d bytes, want at most %d", got, limit)
	}
}

func BenchmarkBuilder(b *testing.B) {
	const n = 4096
	block := make([]byte, verity.BlockSize)
	b.SetBytes(n * verity.BlockSize)
	for b.Loop() {
		build, err := verity.NewBuilder(verity.Params{DataBlocks: n, Salt: make([]byte, 32)})
		if err != nil {
			b.Fatal(err)
		}
		for range n {
			if _, err := build.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := build.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}
