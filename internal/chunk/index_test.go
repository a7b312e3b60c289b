package chunk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

func TestIndexRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 4096, chunk.MinSize, chunk.MaxSize + 1, 1 << 20} {
		want := index(t, chunktest.Data(5, size))
		b := want.Marshal()
		got, err := chunk.Parse(b)
		if err != nil {
			t.Errorf("Parse(index of %d bytes) = %v", size, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Parse(Marshal(index of %d bytes)) differs (-want +got):\n%s", size, diff)
		}
	}
}

// TestParseRefuses breaks one field of a good index at a time.
func TestParseRefuses(t *testing.T) {
	good := index(t, chunktest.Data(6, 400_000)).Marshal()
	n := len(good)
	set := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b[at:], v)
			return b
		}
	}
	first := binary.LittleEndian.Uint64(good[64:])
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"empty", func(b []byte) []byte { return nil }, "truncated"},
		{"header only", func(b []byte) []byte { return b[:48] }, "truncated"},
		{"one byte short", func(b []byte) []byte { return b[:n-1] }, "whole number"},
		{"one byte long", func(b []byte) []byte { return append(b, 0) }, "whole number"},
		{"last entry missing", func(b []byte) []byte { return b[:n-40] }, "end of table"},
		{"entry after the end", func(b []byte) []byte { return append(b, b[64:104]...) }, "end of table"},
		{"header size", set(0, 40), "size of header"},
		{"type", set(8, 1), "not a chunk index"},
		{"flags", set(16, 1), "unknown feature flags"},
		{"smallest chunk 0", set(24, 0), "do not rise"},
		{"smallest above average", set(24, 65537), "do not rise"},
		{"average above largest", set(32, 262145), "do not rise"},
		{"largest above limit", set(40, chunk.MaxChunkSize+1), "limit"},
		{"largest huge", set(40, 1<<63), "limit"},
		{"table size", set(48, 80), "size of table"},
		{"table type", set(56, 1), "type of table"},
		{"first chunk empty", set(64, 0), "chunk ends at 0"},
		{"first chunk too large", set(64, chunk.MaxSize+1), "chunk ends at"},
		{"chunk goes back", set(104, first-1), "chunk ends at"},
		{"chunk repeats", set(104, first), "chunk ends at"},
		{"offset overflows", set(104, 1<<63), "chunk ends at"},
		{"tail zero", set(n-40, 1), "end of table"},
		{"tail zero 2", set(n-32, 1), "end of table"},
		{"tail index offset", set(n-24, 0), "end of table"},
		{"tail table size", set(n-16, 0), "end of table"},
		{"tail marker", set(n-8, 0), "end of table"},
	} {
		b := test.change(bytes.Clone(good))
		_, err := chunk.Parse(b)
		var format *chunk.FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Parse(%s) = %v, want a FormatError with %q", test.name, err, test.want)
		}
	}
	if _, err := chunk.Parse(set(16, 0x2000000000000000)(bytes.Clone(good))); !errors.Is(err, chunk.ErrDigest) {
		t.Errorf("Parse(SHA-512/256 index) = %v, want %v", err, chunk.ErrDigest)
	}
	if _, err := chunk.Parse(make([]byte, chunk.MaxIndexSize+1)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Parse(endless index) = %v, want a size error", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, size := range []int{0, 1, 300_000} {
		f.Add(index(f, chunktest.Data(8, size)).Marshal())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := chunk.Parse(b)
		if err != nil {
			return
		}
		if got := x.Marshal(); !bytes.Equal(got, b) {
			t.Errorf("Marshal(Parse(b)) = %x, want %x", got, b)
		}
		var end int64
		for i, e := range x.Chunks {
			if e.Offset != end || e.Size < 1 || e.Size > x.Max {
				t.Errorf("chunk %d is %d+%d after %d, largest %d", i, e.Offset, e.Size, end, x.Max)
			}
			end = e.End()
		}
	})
}
