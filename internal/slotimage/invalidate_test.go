package slotimage_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

// A journal is a device that can be cut: it remembers each write, and between
// which syncs it was.
type journal struct {
	slotimagetest.File
	writes []write
	epoch  int
}

type write struct {
	epoch int
	at    int64
	bytes []byte
}

func (j *journal) WriteAt(b []byte, at int64) (int, error) {
	j.writes = append(j.writes, write{j.epoch, at, slices.Clone(b)})
	return j.File.WriteAt(b, at)
}

func (j *journal) Sync() error { j.epoch++; return nil }

// afterCuts calls f with every content that before may have after a cut: all
// writes of some epochs, and any subset of those of the next.
func (j *journal) afterCuts(before []byte, f func(content []byte)) {
	content := slices.Clone(before)
	for epoch := range j.epoch + 1 {
		var pending []write
		for _, w := range j.writes {
			if w.epoch == epoch {
				pending = append(pending, w)
			}
		}
		for subset := range 1 << len(pending) {
			cut := slices.Clone(content)
			for i, w := range pending {
				if subset&(1<<i) != 0 {
					copy(cut[w.at:], w.bytes)
				}
			}
			f(cut)
		}
		for _, w := range pending {
			copy(content[w.at:], w.bytes)
		}
	}
}

func TestInvalidate(t *testing.T) {
	const size = 100 * slotimage.BlockSize
	old, m := slotimagetest.Image(t, slotimagetest.Template(), 9, 1)
	next, nextM := slotimagetest.Image(t, slotimagetest.Template(), 20, 2)
	slot := make([]byte, size)
	// An image before the old one left its manifest where the next one's will be.
	copy(slot, next)
	copy(slot, old)

	j := &journal{File: slotimagetest.File{Bytes: slices.Clone(slot)}}
	if err := slotimage.Invalidate(j, size, nextM.ManifestOffset()); err != nil {
		t.Fatal(err)
	}
	if len(j.writes) == 0 || j.epoch == 0 || j.writes[len(j.writes)-1].epoch >= j.epoch {
		t.Errorf("Invalidate ended without a sync after its last write")
	}
	j.afterCuts(slot, func(content []byte) {
		// Either nothing has happened or there is no image any more, also when
		// any filesystem of old or new length comes back without its manifest.
		r := bytes.NewReader(content)
		if got, err := slotimage.Read(r, size, accepted(1)); err == nil && *got != *m {
			t.Errorf("Read after a cut = %+v, want the old manifest or an error", got)
		}
		again := &journal{File: slotimagetest.File{Bytes: content}}
		if err := slotimage.Invalidate(again, size, nextM.ManifestOffset()); err != nil {
			t.Fatalf("Invalidate again = %v", err)
		}
		for _, fs := range [][]byte{old[:m.DataSize], next[:nextM.DataSize]} {
			if _, err := slotimage.Read(r, size, accepted(1)); !errors.Is(err, slotimage.ErrEmpty) {
				t.Errorf("Read of a slot made empty = %v, want ErrEmpty", err)
			}
			refilled := slices.Clone(content)
			copy(refilled, fs)
			_, err := slotimage.Read(bytes.NewReader(refilled), size, accepted(1))
			if !errors.Is(err, slotimage.ErrNoManifest) {
				t.Errorf("Read of a filesystem of %d bytes in a slot made empty = %v, want ErrNoManifest", len(fs), err)
			}
		}
	})
}

func TestInvalidateOddSlots(t *testing.T) {
	const size = 4 * slotimage.BlockSize
	huge := slotimagetest.Filesystem(9, 1) // longer than the slot
	for name, content := range map[string][]byte{
		"zeros":           make([]byte, size),
		"noise":           bytes.Repeat([]byte{0xff}, size),
		"long filesystem": huge[:size],
	} {
		f := &slotimagetest.File{Bytes: slices.Clone(content)}
		if err := slotimage.Invalidate(f, size); err != nil {
			t.Errorf("%s: Invalidate = %v", name, err)
		}
		if _, err := slotimage.Locate(f); !errors.Is(err, slotimage.ErrEmpty) {
			t.Errorf("%s: Locate after Invalidate = %v, want ErrEmpty", name, err)
		}
		if len(f.Bytes) != size {
			t.Errorf("%s: Invalidate wrote past the end of the slot", name)
		}
	}
	for _, at := range []int64{-slotimage.BlockSize, 1, size, size - 1} {
		f := &slotimagetest.File{Bytes: huge[:size]}
		if err := slotimage.Invalidate(f, size, at); err == nil {
			t.Errorf("Invalidate with a manifest at %d of %d = nil, want an error", at, size)
		}
		if _, err := slotimage.Locate(f); err != nil {
			t.Errorf("Invalidate wrote although it refused %d: %v", at, err)
		}
	}
}

type failingDevice struct {
	slotimagetest.File
	write, sync error
}

func (f *failingDevice) WriteAt(b []byte, at int64) (int, error) {
	if f.write != nil {
		return 0, f.write
	}
	return f.File.WriteAt(b, at)
}
func (f *failingDevice) Sync() error { return f.sync }

func TestInvalidateReportsErrors(t *testing.T) {
	for _, f := range []*failingDevice{{write: iotest.ErrTimeout}, {sync: iotest.ErrTimeout}} {
		f.Bytes = slotimagetest.Filesystem(2, 1)
		if err := slotimage.Invalidate(f, 1<<20); !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("Invalidate on a failing device = %v, want %v", err, iotest.ErrTimeout)
		}
	}
}
