package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

// ErrNotLast says that another partition lies behind the one that is to grow.
var ErrNotLast = errors.New("it is not the last partition of the disk")

// A Write is bytes to put on a disk.
type Write struct {
	At   int64 // in bytes
	Data []byte
}

// A Change says what becomes of a partition.
type Change struct {
	Name  string
	GUID  string // new one, lower case; empty: as it is
	Align int64  // bytes that the new end is a multiple of; 0: 1 MiB
}

// Grow returns the writes that make the named partition, which has to be the last
// of the disk, as large as the disk of size bytes allows, and give it another GUID
// if one is asked for. Without anything to do there are none.
//
// The writes have to be on the medium one after the other: flush after each. At every
// instant one of the two copies of the table is whole, the one that counts now is written
// last, and the other is where [Read] and firmware look for it. Linux does only with the word
// gpt on its command line (block/partitions/efi.c). A table that moved to a
// larger disk gets its copy at the end of that. Format: UEFI specification 2.10, 5.3.
func Grow(r io.ReaderAt, size int64, c Change) ([]Write, error) {
	w, err := grow(r, size, c)
	if err != nil {
		return nil, fmt.Errorf("grow partition %s: %w", c.Name, err)
	}
	return w, nil
}

func grow(r io.ReaderAt, size int64, c Change) ([]Write, error) {
	t, err := Read(r, size)
	if err != nil {
		return nil, err
	}
	p, err := t.ByName(c.Name)
	if err != nil {
		return nil, err
	}
	for _, other := range t.Partitions {
		if other.Start > p.Start {
			return nil, fmt.Errorf("%w: partition %d (%q) is behind it", ErrNotLast, other.Number, other.Name)
		}
		if other.GUID == c.GUID && other.Number != p.Number {
			return nil, fmt.Errorf("partition %d has the GUID %s", other.Number, c.GUID)
		}
	}
	d := disk{int64(t.SectorSize), size / int64(t.SectorSize)}
	backupAt, lba := d.sectors-1, int64(1)
	if t.Backup {
		lba = backupAt
	}
	old, err := rawCopy(r, d, lba)
	if err != nil {
		return nil, err
	}
	end, lastUsable := room(d, old, c.Align)
	end = max(end, p.Start+p.Size) // never smaller
	entries := slices.Clone(old.entries)
	entry := entries[int64(p.Number-1)*old.header.size:][:old.header.size]
	if c.GUID != "" {
		b, err := guidBytes(c.GUID)
		if err != nil {
			return nil, err
		}
		copy(entry[16:32], b)
	}
	binary.LittleEndian.PutUint64(entry[40:], uint64(end/d.sector-1))
	alternate := int64(binary.LittleEndian.Uint64(old.sector[32:]))
	if bytes.Equal(entries, old.entries) && !t.Backup && alternate == backupAt {
		return nil, nil
	}
	entrySectors := (int64(len(entries)) + d.sector - 1) / d.sector
	entriesAt := old.header.entriesAt / d.sector // of the first copy
	if t.Backup {
		entriesAt = 2
	}
	padded := make([]byte, entrySectors*d.sector)
	copy(padded, entries)
	sum := crc32.ChecksumIEEE(entries)
	header := func(own, other, entriesAt int64) []byte {
		b := slices.Clone(old.sector)
		le := binary.LittleEndian
		le.PutUint64(b[24:], uint64(own))
		le.PutUint64(b[32:], uint64(other))
		le.PutUint64(b[48:], uint64(lastUsable))
		le.PutUint64(b[72:], uint64(entriesAt))
		le.PutUint32(b[88:], sum)
		n := le.Uint32(b[12:])
		clear(b[16:20])
		le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:n]))
		return b
	}
	backupEntries := backupAt - entrySectors
	writes := []Write{
		{backupEntries * d.sector, padded},
		{backupAt * d.sector, header(backupAt, 1, backupEntries)},
		{entriesAt * d.sector, padded},
		{d.sector, header(1, backupAt, entriesAt)},
	}
	if t.Backup {
		// The second copy is the only one that is whole: it goes last.
		writes = append(writes[2:], writes[:2]...)
	}
	return writes, nil
}

// room returns where the last partition may end, in bytes, and the last usable sector.
func room(d disk, t *raw, align int64) (end, lastUsable int64) {
	if align == 0 {
		align = 1 << 20
	}
	entrySectors := (int64(len(t.entries)) + d.sector - 1) / d.sector
	lastUsable = d.sectors - 1 - entrySectors - 1
	return (lastUsable + 1) * d.sector / align * align, lastUsable
}

// guidBytes is the opposite of guid.
func guidBytes(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 {
		return nil, fmt.Errorf("%q is not a GUID", s)
	}
	slices.Reverse(b[:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b, nil
}
