package cutdisk_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/vm/cutdisk"
)

const sector = cutdisk.SectorSize

func filled(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func newDisk(t testing.TB, base io.ReaderAt, size int64) *cutdisk.Disk {
	t.Helper()
	d, err := cutdisk.New(base, size, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func read(t testing.TB, d *cutdisk.Disk, off int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestModel holds the disk against the simplest thing that says what may be read: for each
// sector what is durable and what was written since.
func TestModel(t *testing.T) {
	const size = 64*sector + 3*sector // not a whole number of blocks
	base := make([]byte, size-5*sector)
	for i := range base {
		base[i] = byte(i/sector) | 0x80
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "cutdisk")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		d, err := cutdisk.New(bytes.NewReader(base), size, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		state := make([][][]byte, size/sector) // of each sector: durable, then what waits
		for i := range state {
			state[i] = [][]byte{make([]byte, sector)}
			copy(state[i][0], base[min(i*sector, len(base)):])
		}
		next := byte(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			default:
				first := rapid.IntRange(0, len(state)-1).Draw(t, "first")
				n := rapid.IntRange(1, min(20, len(state)-first)).Draw(t, "sectors")
				next++
				if _, err := d.WriteAt(filled(next, n*sector), int64(first*sector)); err != nil {
					t.Fatal(err)
				}
				for i := first; i < first+n; i++ {
					state[i] = append(state[i], filled(next, sector))
				}
			case 7:
				if err := d.Flush(); err != nil {
					t.Fatal(err)
				}
				for i, s := range state {
					state[i] = s[len(s)-1:]
				}
			case 8:
				mode := rapid.SampledFrom([]cutdisk.Mode{cutdisk.Random, cutdisk.Lose, cutdisk.Keep}).Draw(t, "mode")
				seed := rapid.Uint64().Draw(t, "seed")
				if _, err := d.Cut(mode, rand.New(rand.NewPCG(seed, 0))); err != nil {
					t.Fatal(err)
				}
				for i, s := range state {
					got := make([]byte, sector)
					if _, err := d.ReadAt(got, int64(i*sector)); err != nil {
						t.Fatal(err)
					}
					may := s
					switch mode {
					case cutdisk.Lose:
						may = s[:1]
					case cutdisk.Keep:
						may = s[len(s)-1:]
					}
					if !holds(may, got) {
						t.Fatalf("sector %d after cut %d holds %x.., want one of %d others", i, mode, got[:4], len(may))
					}
					state[i] = [][]byte{got}
				}
			case 9:
				first := rapid.IntRange(0, size-1).Draw(t, "from")
				got := make([]byte, rapid.IntRange(0, size-first).Draw(t, "bytes"))
				if _, err := d.ReadAt(got, int64(first)); err != nil {
					t.Fatal(err)
				}
				var whole []byte
				for _, s := range state {
					whole = append(whole, s[len(s)-1]...)
				}
				if !bytes.Equal(got, whole[first:first+len(got)]) {
					t.Fatalf("ReadAt(%d bytes, %d) is not what was written last", len(got), first)
				}
			}
		}
	})
}

func holds(list [][]byte, b []byte) bool {
	for _, l := range list {
		if bytes.Equal(l, b) {
			return true
		}
	}
	return false
}

func TestCutIsRepeatable(t *testing.T) {
	once := func(seed uint64) (cutdisk.Report, []byte) {
		d := newDisk(t, nil, 1<<20)
		for i := range 60 {
			if _, err := d.WriteAt(filled(byte(i+1), 8*sector), int64(i*4*sector)); err != nil {
				t.Fatal(err)
			}
		}
		rep, err := d.Cut(cutdisk.Random, rand.New(rand.NewPCG(seed, 0)))
		if err != nil {
			t.Fatal(err)
		}
		return rep, read(t, d, 0, 1<<20)
	}
	r1, b1 := once(1)
	r2, b2 := once(1)
	if r1 != r2 || !bytes.Equal(b1, b2) {
		t.Errorf("two cuts with one seed differ: %v, %v", r1, r2)
	}
	if _, b3 := once(2); bytes.Equal(b1, b3) {
		t.Error("cuts with two seeds do not differ")
	}
	if r1.Kept == 0 || r1.Lost == 0 || r1.Torn == 0 {
		t.Errorf("%v, want some of each", r1)
	}
}

// A guest that never flushes must not fill the host's memory.
func TestCacheIsBounded(t *testing.T) {
	d := newDisk(t, nil, 4*cutdisk.CacheSize)
	chunk := filled(7, 1<<20)
	for off := int64(0); off < d.Size(); off += int64(len(chunk)) {
		if _, err := d.WriteAt(chunk, off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Cut(cutdisk.Lose, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, d, 0, sector); !bytes.Equal(got, filled(7, sector)) {
		t.Error("the oldest write was lost, want it durable by itself")
	}
	if got := read(t, d, d.Size()-sector, sector); !bytes.Equal(got, filled(0, sector)) {
		t.Error("the newest write survived, want it lost")
	}
}

func TestStopAt(t *testing.T) {
	d := newDisk(t, nil, 1<<20)
	stopped := d.StopAt(2)
	done := make(chan error)
	go func() {
		for i := range 3 {
			if _, err := d.WriteAt(filled(byte(i+1), sector), int64(i*sector)); err != nil {
				done <- err
				return
			}
			if err := d.Flush(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	<-stopped
	d.PowerOff()
	if err := <-done; err == nil {
		t.Error("the access after the disk stopped succeeded")
	}
	if _, err := d.Cut(cutdisk.Lose, nil); err != nil {
		t.Fatal(err)
	}
	for i, want := range []byte{1, 0, 0} {
		if got := read(t, d, int64(i*sector), 1)[0]; got != want {
			t.Errorf("sector %d holds %d after a stop at the second write, want %d", i, got, want)
		}
	}
	if _, err := d.WriteAt(filled(9, sector), 0); err != nil {
		t.Errorf("write after the power came back: %v", err)
	}
}

func TestFreeze(t *testing.T) {
	d := newDisk(t, nil, 1<<20)
	if _, err := d.WriteAt([]byte("hello"), 1000); err != nil {
		t.Fatal(err)
	}
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("x"), 0); err == nil {
		t.Error("write to a frozen disk succeeded")
	}
	over := newDisk(t, d, d.Size())
	if _, err := over.WriteAt([]byte("j"), 1000); err != nil {
		t.Fatal(err)
	}
	if got := string(read(t, over, 1000, 5)); got != "jello" {
		t.Errorf("disk over the frozen one holds %q, want jello", got)
	}
	if got := string(read(t, d, 1000, 5)); got != "hello" {
		t.Errorf("the frozen disk holds %q, want hello", got)
	}
}

func TestBounds(t *testing.T) {
	d := newDisk(t, nil, 8*sector)
	for _, tt := range []struct {
		off int64
		n   int
	}{{-1, 1}, {8 * sector, 1}, {8*sector - 1, 2}, {1 << 62, 1}} {
		if _, err := d.WriteAt(make([]byte, tt.n), tt.off); err == nil {
			t.Errorf("WriteAt(%d bytes, %d) succeeded past the end", tt.n, tt.off)
		}
		if _, err := d.ReadAt(make([]byte, tt.n), tt.off); err == nil {
			t.Errorf("ReadAt(%d bytes, %d) succeeded past the end", tt.n, tt.off)
		}
	}
	for _, size := range []int64{0, -512, 511} {
		if _, err := cutdisk.New(nil, size, t.TempDir()); err == nil {
			t.Errorf("New with size %d succeeded", size)
		}
	}
}
