// Package gpt reads GUID partition tables.
//
// [Read] returns the table of a disk or a disk image, [Table.ByName] one of its
// partitions, [Grow] the writes that enlarge the last one. All are strict: checksums, bounds and overlaps are checked, and
// a name that is there twice is an error, not a choice. Where the first copy
// of the table is damaged, the second at the end of the disk is read.
//
// Tables are not made here; that is for sfdisk, which does not keep its writes apart with
// flushes, so that a device cannot use it to change one. The reader is our own
// because PID 1 of the initramfs uses it on every disk that is plugged in: it
// must not allocate what an unchecked header asks for, must try both sector sizes
// and both copies, and may import the standard library only.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

var (
	// ErrNoTable says that there is no partition table.
	ErrNoTable = errors.New("no GPT")
	// ErrDamaged says that neither copy of the table is good.
	ErrDamaged = errors.New("damaged GPT")
	// ErrNoPartition says that no partition has the name.
	ErrNoPartition = errors.New("no partition of this name")
	// ErrDuplicate says that more than one partition has the name.
	ErrDuplicate = errors.New("more than one partition of this name")
)

// A Table is what a disk is divided into.
type Table struct {
	DiskGUID   string      `json:"disk_guid"` // lower case
	SectorSize int         `json:"sector_size"`
	Backup     bool        `json:"backup"`     // read from the copy at the end of the disk
	Partitions []Partition `json:"partitions"` // in the order of their numbers
}

// A Partition is a part of a disk.
type Partition struct {
	Number   int    `json:"number"` // from 1, as in /dev/vda1
	Name     string `json:"name"`
	GUID     string `json:"guid"`      // lower case
	TypeGUID string `json:"type_guid"` // lower case
	Start    int64  `json:"start"`     // in bytes
	Size     int64  `json:"size"`      // in bytes
}

const (
	signature  = "EFI PART"
	headerSize = 92 // of revision 1.0
	entrySize  = 128
	maxEntries = 1 << 20 // bytes; 128 entries of 128 bytes are usual
)

// Read reads the partition table of a disk of size bytes.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	t, err := read(r, size)
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	return t, nil
}

// read tries the first copy, then the second, each for both sector sizes. The
// error of the first place that has a table at all is the one to tell.
func read(r io.ReaderAt, size int64) (*Table, error) {
	var firstErr error
	for _, backup := range []bool{false, true} {
		for _, sector := range []int64{512, 4096} {
			lba := int64(1)
			if backup {
				lba = size/sector - 1
			}
			if lba < 1 || lba >= size/sector {
				continue
			}
			t, err := readCopy(r, disk{sector, size / sector}, lba)
			if err == nil {
				t.Backup = backup
				return t, nil
			}
			if firstErr == nil && !errors.Is(err, ErrNoTable) {
				firstErr = err
			}
		}
	}
	if firstErr == nil {
		firstErr = ErrNoTable
	}
	return nil, firstErr
}

// A disk has sectors of some size.
type disk struct{ sector, sectors int64 }

// A header is the part of a header that matters.
type header struct {
	guid            [16]byte
	first, last     int64 // usable sectors
	entriesAt       int64 // in bytes
	count, size     int64 // of entries
	entriesChecksum uint32
}

func readCopy(r io.ReaderAt, d disk, lba int64) (*Table, error) {
	c, err := rawCopy(r, d, lba)
	if err != nil {
		return nil, err
	}
	h := c.header
	t := &Table{DiskGUID: guid(h.guid[:]), SectorSize: int(d.sector)}
	for i := range h.count {
		p, err := parseEntry(c.entries[i*h.size:][:h.size], d.sector, h)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", i+1, err)
		}
		if p != nil {
			p.Number = int(i) + 1
			t.Partitions = append(t.Partitions, *p)
		}
	}
	return t, t.checkOverlap()
}

// raw is a copy of the table as it lies on the disk.
type raw struct {
	sector  []byte // with the header
	header  *header
	entries []byte
}

func rawCopy(r io.ReaderAt, d disk, lba int64) (*raw, error) {
	b := make([]byte, d.sector)
	if err := readFull(r, b, lba*d.sector); err != nil {
		return nil, err
	}
	h, err := parseHeader(b, d, lba)
	if err != nil {
		return nil, err
	}
	entries := make([]byte, h.count*h.size)
	if err := readFull(r, entries, h.entriesAt); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != h.entriesChecksum {
		return nil, fmt.Errorf("%w: checksum of the entries", ErrDamaged)
	}
	return &raw{b, h, entries}, nil
}

func parseHeader(b []byte, d disk, lba int64) (*header, error) {
	if string(b[:8]) != signature {
		return nil, ErrNoTable
	}
	damaged := func(format string, args ...any) (*header, error) {
		return nil, fmt.Errorf("%w: header in sector %d: %s", ErrDamaged, lba, fmt.Sprintf(format, args...))
	}
	le := binary.LittleEndian
	if revision := le.Uint32(b[8:]); revision != 1<<16 {
		return damaged("revision %#x", revision)
	}
	size := le.Uint32(b[12:])
	if size < headerSize || int64(size) > d.sector {
		return damaged("size %d", size)
	}
	summed := slices.Clone(b[:size])
	clear(summed[16:20])
	if crc32.ChecksumIEEE(summed) != le.Uint32(b[16:]) {
		return damaged("checksum")
	}
	if own := le.Uint64(b[24:]); own != uint64(lba) {
		return damaged("it is for sector %d", own)
	}
	first, last := le.Uint64(b[40:]), le.Uint64(b[48:])
	if first < 2 || first > last || last >= uint64(d.sectors) {
		return damaged("sectors %d to %d of %d", first, last, d.sectors)
	}
	h := &header{
		guid:            [16]byte(b[56:]),
		first:           int64(first),
		last:            int64(last),
		count:           int64(le.Uint32(b[80:])),
		size:            int64(le.Uint32(b[84:])),
		entriesChecksum: le.Uint32(b[88:]),
	}
	if h.size < entrySize || h.size > 4096 || h.size&(h.size-1) != 0 || h.count < 1 || h.count > maxEntries/h.size {
		return damaged("%d entries of %d bytes", h.count, h.size)
	}
	at := le.Uint64(b[72:])
	sectors := uint64((h.count*h.size + d.sector - 1) / d.sector)
	before := at >= 2 && at < first && sectors <= first-at
	after := at > last && at < uint64(d.sectors) && sectors <= uint64(d.sectors)-at
	if !before && !after || at <= uint64(lba) && uint64(lba) < at+sectors {
		return damaged("entries in sector %d", at)
	}
	h.entriesAt = int64(at) * d.sector
	return h, nil
}

// parseEntry returns nil for an entry that is not in use.
func parseEntry(b []byte, sector int64, h *header) (*Partition, error) {
	var zero [16]byte
	if bytes.Equal(b[:16], zero[:]) {
		return nil, nil
	}
	if bytes.Equal(b[16:32], zero[:]) {
		return nil, fmt.Errorf("%w: no GUID", ErrDamaged)
	}
	le := binary.LittleEndian
	first, last := le.Uint64(b[32:]), le.Uint64(b[40:])
	if first < uint64(h.first) || first > last || last > uint64(h.last) {
		return nil, fmt.Errorf("%w: sectors %d to %d, usable are %d to %d", ErrDamaged, first, last, h.first, h.last)
	}
	return &Partition{
		Name:     name(b[56:entrySize]),
		GUID:     guid(b[16:32]),
		TypeGUID: guid(b[:16]),
		Start:    int64(first) * sector,
		Size:     int64(last-first+1) * sector,
	}, nil
}

func (t *Table) checkOverlap() error {
	byStart := slices.SortedFunc(slices.Values(t.Partitions), func(a, b Partition) int {
		return int(min(1, max(-1, a.Start-b.Start)))
	})
	guids := map[string]int{}
	for i, p := range byStart {
		if i > 0 && byStart[i-1].Start+byStart[i-1].Size > p.Start {
			return fmt.Errorf("%w: partitions %d and %d overlap", ErrDamaged, byStart[i-1].Number, p.Number)
		}
		if other, twice := guids[p.GUID]; twice {
			return fmt.Errorf("%w: partitions %d and %d have the same GUID", ErrDamaged, other, p.Number)
		}
		guids[p.GUID] = p.Number
	}
	return nil
}

// ByName returns the partition of that name, of which there must be exactly
// one. The error for none lists the names that there are.
func (t *Table) ByName(name string) (Partition, error) {
	var found []Partition
	var names []string
	for _, p := range t.Partitions {
		names = append(names, fmt.Sprintf("%q", p.Name))
		if p.Name == name {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Partition{}, fmt.Errorf("find partition %q: %w (%d and %d)", name, ErrDuplicate, found[0].Number, found[1].Number)
	case len(names) == 0:
		return Partition{}, fmt.Errorf("find partition %q: %w (there is no partition at all)", name, ErrNoPartition)
	default:
		return Partition{}, fmt.Errorf("find partition %q: %w (there are %s)", name, ErrNoPartition, strings.Join(names, ", "))
	}
}

// guid writes a GUID as text: the first three fields are little endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// name decodes UTF-16 up to the first zero.
func name(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at %d: %w", at, err)
}
