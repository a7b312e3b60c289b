package fat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// A slot's first bytes are its name, attributes and the case of its letters. The
// others say what the file is: times, first cluster, size.
const (
	nameEnd = 11
	fileAt  = 13
)

// Switch puts the file fresh in the place of live: in one write live gets
// fresh's content, and fresh's entry becomes old with the content that live had.
// Where there is no live yet, fresh gets its name. All three are in one folder,
// and the entries of live and fresh in one sector of it.
func (v *Volume) Switch(live, fresh, old string) error {
	err := v.change(func() (int64, func([]byte), error) {
		l, ok := v.Find(live)
		if !ok {
			return v.rename(fresh, live)
		}
		f, err := v.own(fresh)
		if err != nil {
			return 0, nil, err
		}
		if l.Dir || l.sector != f.sector {
			return 0, nil, fmt.Errorf("%s and %s are not files in the same sector of their folder", live, fresh)
		}
		_, rename, err := v.rename(fresh, old)
		return l.sector, func(sector []byte) {
			a := sector[l.slot*slotSize:][:slotSize]
			b := sector[f.slot*slotSize:][:slotSize]
			for i := fileAt; i < slotSize; i++ {
				a[i], b[i] = b[i], a[i]
			}
			rename(sector)
		}, err
	})
	if err != nil {
		return fmt.Errorf("put %s in the place of %s: %w", fresh, live, err)
	}
	return nil
}

// Rename gives a file another name in its folder, which no other file has.
func (v *Volume) Rename(from, to string) error {
	if err := v.change(func() (int64, func([]byte), error) { return v.rename(from, to) }); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

// Detach makes a file empty without giving its clusters back: they may be
// another's. If they are not, they are lost to the volume.
func (v *Volume) Detach(file string) error {
	err := v.change(func() (int64, func([]byte), error) {
		e, ok := v.Find(file)
		if !ok {
			return 0, nil, fs.ErrNotExist
		}
		if e.Dir {
			return 0, nil, errors.New("it is a folder")
		}
		return e.sector, func(sector []byte) {
			s := sector[e.slot*slotSize:]
			clear(s[20:22])
			clear(s[26:32])
		}, nil
	})
	if err != nil {
		return fmt.Errorf("detach %s from its clusters: %w", file, err)
	}
	return nil
}

// own finds a file whose entry may be changed.
func (v *Volume) own(file string) (Entry, error) {
	e, ok := v.Find(file)
	switch {
	case !ok:
		return e, fs.ErrNotExist
	case e.Dir:
		return e, errors.New("it is a folder")
	case e.long:
		return e, errors.New("it has a long name")
	}
	return e, nil
}

func (v *Volume) rename(from, to string) (int64, func([]byte), error) {
	e, err := v.own(from)
	if err != nil {
		return 0, nil, err
	}
	if path.Dir(from) != path.Dir(to) {
		return 0, nil, errors.New("that is another folder")
	}
	if _, ok := v.Find(to); ok {
		return 0, nil, fs.ErrExist
	}
	short, err := Short(path.Base(to))
	return e.sector, func(sector []byte) { copy(sector[e.slot*slotSize:][:nameEnd], short[:]) }, err
}

// change writes one sector, reads it back, and reads the volume anew.
func (v *Volume) change(plan func() (int64, func(sector []byte), error)) error {
	at, edit, err := plan()
	if err != nil {
		return err
	}
	sector := make([]byte, SectorSize)
	if err := readFull(v.dev, sector, at); err != nil {
		return err
	}
	edit(sector)
	// What the sector will lead to has to be on the medium before it: a cache of the
	// medium may write in any order.
	if err := v.dev.Sync(); err != nil {
		return err
	}
	if _, err := v.dev.WriteAt(sector, at); err != nil {
		return err
	}
	if err := v.dev.Sync(); err != nil {
		return err
	}
	back := make([]byte, SectorSize)
	if err := readFull(v.dev, back, at); err != nil {
		return err
	}
	if !bytes.Equal(back, sector) {
		return fmt.Errorf("the sector at %d does not read as it was written", at)
	}
	return v.load()
}

// readAhead is how much of a file is read at a time, where it lies in one piece.
const readAhead = 256 << 10

// Sum returns the SHA-256 of a file, read along its clusters.
func (v *Volume) Sum(ctx context.Context, file string) ([]byte, error) {
	e, ok := v.Find(file)
	if !ok || e.Dir {
		return nil, fmt.Errorf("read %s: %w", file, fs.ErrNotExist)
	}
	h := sha256.New()
	buf := make([]byte, max(readAhead, v.cluster))
	c := e.start
	for left := e.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := v.allocated(c); err != nil {
			return nil, fmt.Errorf("read %s: its chain of clusters %w", file, err)
		}
		// Clusters that follow each other are read together.
		first, n, ended := c, int64(0), false
		for n+v.cluster <= int64(len(buf)) && n < left && !ended && c == first+uint32(n/v.cluster) {
			next, err := v.next(c)
			n, ended = n+v.cluster, errors.Is(err, errEnd)
			if !ended {
				c = next
				if err := v.allocated(c); err != nil && n < left {
					return nil, fmt.Errorf("read %s: its chain of clusters %w", file, err)
				}
			}
		}
		if err := readFull(v.dev, buf[:n], v.at(first)); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		h.Write(buf[:min(n, left)])
		left -= min(n, left)
		if ended && left > 0 {
			return nil, fmt.Errorf("read %s: its chain of clusters ends %d bytes early", file, left)
		}
	}
	return h.Sum(nil), nil
}
