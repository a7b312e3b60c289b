package torn

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// journal is the part of the log that recovery would replay.
type journal struct {
	dev     io.ReaderAt
	g       geometry
	records []record // in order
}

// record is a part of the log that XFS has written at once: a header of one sector, further ones for
// records of more than 32 KiB, and the content.
type record struct {
	at        int64 // sector in the log
	lsn, tail uint64
	headers   int
	length    int // of the content, in bytes
}

const (
	recordMagic = 0xfeedbabe
	cycleWords  = 64 // a header has the first word of so many sectors
	covered     = cycleWords * sector
	maxRecord   = 256 << 10
	recordSum   = 32  // where the checksum is
	summed      = 328 // bytes of the header that it is of
	moreSummed  = 260 // and of each further header
)

// parseRecord reads a header. One of another file system is not one.
func parseRecord(b []byte, at int64, uuid [16]byte) (record, bool) {
	be := binary.BigEndian
	r := record{at: at, lsn: be.Uint64(b[16:]), tail: be.Uint64(b[24:]), headers: 1, length: int(be.Uint32(b[12:]))}
	if be.Uint32(b) != recordMagic || be.Uint32(b[8:]) != 2 || [16]byte(b[304:]) != uuid {
		return r, false
	}
	if be.Uint32(b[4:]) != uint32(r.lsn>>32) || int64(uint32(r.lsn)) != at {
		return r, false
	}
	size := int(be.Uint32(b[320:]))
	if size < 0 || size > maxRecord || r.length < 0 || r.length > maxRecord {
		return r, false
	}
	r.headers = max(1, (size+covered-1)/covered)
	return r, r.length <= r.headers*covered
}

func (r record) sectors() int64 { return int64(r.headers + (r.length+sector-1)/sector) }

// openJournal finds the records from the tail to the head.
func openJournal(dev io.ReaderAt, g geometry) (*journal, error) {
	j := &journal{dev: dev, g: g}
	all, err := j.scan()
	if err != nil {
		return nil, err
	}
	// The newest that is whole; the power cut may have torn what comes behind it.
	for len(all) > 0 {
		last := all[len(all)-1]
		_, whole, err := j.content(last)
		if err != nil {
			return nil, err
		}
		if whole {
			from, _ := slices.BinarySearchFunc(all, last.tail, func(r record, lsn uint64) int { return cmp.Compare(r.lsn, lsn) })
			j.records = all[from:]
			return j, nil
		}
		all = all[:len(all)-1]
	}
	return nil, errors.New("the journal has no record")
}

// scan finds all headers. The content of a record never looks like one: XFS puts a number of its own
// at the start of each of its sectors.
func (j *journal) scan() ([]record, error) {
	var all []record
	const step = 1 << 20 / sector
	buf := make([]byte, step*sector)
	for at := int64(0); at < j.g.logSectors; at += step {
		n := min(step, j.g.logSectors-at)
		if _, err := j.dev.ReadAt(buf[:n*sector], j.g.logAt+at*sector); err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		for i := range n {
			if r, ok := parseRecord(buf[i*sector:][:sector], at+i, j.g.uuid); ok {
				all = append(all, r)
			}
		}
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Compare(a.lsn, b.lsn) })
	return all, nil
}

// read reads sectors of the log, which begins anew at its end.
func (j *journal) read(at, n int64) ([]byte, error) {
	b := make([]byte, n*sector)
	first := min(n, j.g.logSectors-at)
	if n-first > j.g.logSectors {
		return nil, errors.New("read journal: a record is longer than the journal")
	}
	_, err := j.dev.ReadAt(b[:first*sector], j.g.logAt+at*sector)
	if err == nil && first < n {
		_, err = j.dev.ReadAt(b[first*sector:], j.g.logAt)
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return b, nil
}

// content returns what a record holds, and whether its checksum is right.
func (j *journal) content(r record) ([]byte, bool, error) {
	b, err := j.read(r.at, r.sectors())
	if err != nil {
		return nil, false, err
	}
	body := b[r.headers*sector:]
	crc := sum(b[:summed], recordSum)
	for i := 1; i < r.headers; i++ {
		crc = crc32.Update(crc, castagnoli, b[i*sector:][:moreSummed])
	}
	if crc32.Update(crc, castagnoli, body[:r.length]) != binary.LittleEndian.Uint32(b[recordSum:]) {
		return nil, false, nil
	}
	for i := range len(body) / sector {
		words := b[44:] // in the first header; in the further ones they begin at 4
		if n := i / cycleWords; n > 0 {
			words = b[n*sector+4:]
		}
		copy(body[i*sector:][:4], words[i%cycleWords*4:])
	}
	return body[:r.length], true, nil
}
