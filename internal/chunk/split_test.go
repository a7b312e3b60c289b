package chunk

import (
	"bytes"
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// slowCuts finds the cuts by their definition: a hash that no other within reach is larger than.
func slowCuts(b []byte, avg int64) (cuts []int64) {
	m := newMaxima(avg)
	var all []peak
	h := uint64(0)
	for i, c := range b {
		h = h<<1 + gear[c]
		p := peak{int64(i), h}
		equal := false
		for _, q := range all {
			equal = equal || q.hash == h && p.pos-q.pos <= m.reach
		}
		if h >= m.floor && !equal {
			all = append(all, p)
		}
	}
	for _, p := range all {
		largest := p.pos >= m.reach
		for _, q := range all {
			if d := q.pos - p.pos; d >= -m.reach && d <= m.reach && q.hash > p.hash {
				largest = false
			}
		}
		if largest {
			cuts = append(cuts, p.pos+1)
		}
	}
	return cuts
}

func TestMaxima(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters make stretches that repeat, and with them equal hashes.
		letters := rapid.SampledFrom([]int{1, 2, 3, 256}).Draw(t, "letters")
		b := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, letters-1), func(i int) byte { return byte(i) }), 0, 3000).Draw(t, "bytes")
		avg := int64(rapid.IntRange(2, 200).Draw(t, "average"))
		var got []int64
		m := newMaxima(avg)
		for len(b) > 0 && m.pos < int64(len(b)) {
			n := rapid.IntRange(1, len(b)-int(m.pos)).Draw(t, "read")
			m.scan(b[m.pos:][:n], func(at int64) { got = append(got, at) })
		}
		m.end(func(at int64) { got = append(got, at) })
		if diff := cmp.Diff(slowCuts(b, avg), got); diff != "" {
			t.Fatalf("cuts differ (-want +got):\n%s", diff)
		}
	})
}

// TestSplitLong cuts what has no maxima at the largest size, and everything else goes on behind it.
func TestSplitLong(t *testing.T) {
	image := make([]byte, 3*MaxSize+5)
	var got []int64
	end, err := split(context.Background(), bytes.NewReader(image), ours, 0, func(e Entry, _ []byte) error {
		got = append(got, e.Size)
		return nil
	})
	if diff := cmp.Diff([]int64{MaxSize, MaxSize, MaxSize, 5}, got); err != nil || end != int64(len(image)) || diff != "" {
		t.Errorf("split(zeros) = %d, %v (-want +got):\n%s", end, err, diff)
	}
}

func TestSizesFor(t *testing.T) {
	for image, want := range map[int64]sizes{
		0: ours, 1 << 30: ours, 1<<30 + 1<<20: {2 * MinSize, 2 * AvgSize, 2 * MaxSize}, 4 << 30: {4 * MinSize, 4 * AvgSize, 4 * MaxSize},
		64 << 30: {8 * MinSize, 8 * AvgSize, MaxChunkSize},
	} {
		if got := sizesFor(image); got != want {
			t.Errorf("sizesFor(%d) = %+v, want %+v", image, got, want)
		}
	}
}
