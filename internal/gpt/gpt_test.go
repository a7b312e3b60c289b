package gpt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const (
	diskSectors  = 256
	firstUsable  = 34
	lastUsable   = diskSectors - 34
	headerOffset = 512
	entryOffset  = 1024
)

type entry struct {
	name        string
	id          byte // in its GUID; 0 for a GUID of zeros
	first, last uint64
}

var good = []entry{{"p.UEFI", 1, 40, 59}, {"p.lxreadonly", 2, 60, 99}, {}, {"p.lxrootclone1", 4, 100, 139}}

// makeDisk returns a disk of 512 byte sectors with both copies of a table.
func makeDisk(entries []entry) []byte {
	le := binary.LittleEndian
	array := make([]byte, 128*128)
	for i, e := range entries {
		if e.last == 0 {
			continue
		}
		b := array[i*128:]
		for j := range 16 {
			b[j] = byte(0xc0 + j)
		}
		if e.id != 0 {
			for j := range 16 {
				b[16+j] = byte(j)
			}
			b[31] = e.id
		}
		le.PutUint64(b[32:], e.first)
		le.PutUint64(b[40:], e.last)
		for j, u := range utf16.Encode([]rune(e.name)) {
			le.PutUint16(b[56+2*j:], u)
		}
	}
	disk := make([]byte, diskSectors*512)
	for _, at := range []struct{ own, other, array uint64 }{{1, diskSectors - 1, 2}, {diskSectors - 1, 1, diskSectors - 33}} {
		h := disk[at.own*512:]
		copy(h, "EFI PART")
		le.PutUint32(h[8:], 1<<16)
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], at.own)
		le.PutUint64(h[32:], at.other)
		le.PutUint64(h[40:], firstUsable)
		le.PutUint64(h[48:], lastUsable)
		copy(h[56:72], "\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
		le.PutUint64(h[72:], at.array)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		copy(disk[at.array*512:], array)
		fixChecksums(disk, int(at.own*512))
	}
	return disk
}

// fixChecksums makes the checksums of the header at the offset right, as far as
// there is something to sum up.
func fixChecksums(disk []byte, at int) {
	le := binary.LittleEndian
	h := disk[at:]
	start, n := le.Uint64(h[72:])*512, uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if start < uint64(len(disk)) && n <= uint64(len(disk))-start {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[start:start+n]))
	}
	le.PutUint32(h[16:], 0)
	size := min(max(92, int(le.Uint32(h[12:]))), 512)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
}

func read(b []byte) (*gpt.Table, error) { return gpt.Read(bytes.NewReader(b), int64(len(b))) }

func want(backup bool) *gpt.Table {
	p := func(number int, name string, first, sectors int64) gpt.Partition {
		return gpt.Partition{
			Number: number, Name: name, Start: first * 512, Size: sectors * 512,
			GUID:     fmt.Sprintf("03020100-0504-0706-0809-0a0b0c0d0e%02x", number),
			TypeGUID: "c3c2c1c0-c5c4-c7c6-c8c9-cacbcccdcecf",
		}
	}
	return &gpt.Table{
		DiskGUID: "00112233-4455-6677-8899-aabbccddeeff", SectorSize: 512, Backup: backup,
		Partitions: []gpt.Partition{p(1, "p.UEFI", 40, 20), p(2, "p.lxreadonly", 60, 40), p(4, "p.lxrootclone1", 100, 40)},
	}
}

func TestRead(t *testing.T) {
	whole := makeDisk(good)
	grown := append(slices.Clone(whole), make([]byte, 100*512)...)
	noPrimary := slices.Clone(whole)
	clear(noPrimary[headerOffset:entryOffset])
	badHeader := slices.Clone(whole)
	badHeader[headerOffset+60] ^= 1
	badEntries := slices.Clone(whole)
	badEntries[entryOffset+33] ^= 1
	badBackup := slices.Clone(whole)
	badBackup[(diskSectors-1)*512+60] ^= 1
	for _, tt := range []struct {
		name   string
		disk   []byte
		backup bool
	}{
		{"whole", whole, false},
		{"copied to a larger disk", grown, false},
		{"damaged backup", badBackup, false},
		{"no primary", noPrimary, true},
		{"damaged primary header", badHeader, true},
		{"damaged primary entries", badEntries, true},
	} {
		got, err := read(tt.disk)
		if err != nil {
			t.Errorf("%s: Read = %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(want(tt.backup), got); diff != "" {
			t.Errorf("%s: Read differs (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	le := binary.LittleEndian
	// header changes the first header; the second is gone.
	header := func(edit func(h []byte)) []byte {
		d := makeDisk(good)
		edit(d[headerOffset:])
		fixChecksums(d, headerOffset)
		clear(d[(diskSectors-1)*512:])
		return d
	}
	with := func(e ...entry) []byte { return makeDisk(append(slices.Clone(good), e...)) }
	for _, tt := range []struct {
		name string
		disk []byte
		want error
		text string
	}{
		{"nothing", nil, gpt.ErrNoTable, ""},
		{"one sector", make([]byte, 512), gpt.ErrNoTable, ""},
		{"zeros", make([]byte, 1<<20), gpt.ErrNoTable, ""},
		{"revision", header(func(h []byte) { h[8] = 1 }), gpt.ErrDamaged, "revision"},
		{"header size 91", header(func(h []byte) { h[12] = 91 }), gpt.ErrDamaged, "size 91"},
		{"header size 513", header(func(h []byte) { le.PutUint32(h[12:], 513) }), gpt.ErrDamaged, "size 513"},
		{"another place", header(func(h []byte) { h[24] = 2 }), gpt.ErrDamaged, "it is for sector 2"},
		{"first usable", header(func(h []byte) { h[40] = 1 }), gpt.ErrDamaged, "sectors 1 to"},
		{"last usable before first", header(func(h []byte) { h[48] = 33 }), gpt.ErrDamaged, "sectors 34 to 33"},
		{"last usable past the end", header(func(h []byte) { le.PutUint64(h[48:], diskSectors) }), gpt.ErrDamaged, "to 256 of 256"},
		{"no entries", header(func(h []byte) { le.PutUint32(h[80:], 0) }), gpt.ErrDamaged, "0 entries"},
		{"4 G entries", header(func(h []byte) { le.PutUint32(h[80:], 1<<32-1) }), gpt.ErrDamaged, "4294967295 entries"},
		{"4 G entries of 2 G", header(func(h []byte) { le.PutUint32(h[80:], 1<<32-1); le.PutUint32(h[84:], 1<<31) }), gpt.ErrDamaged, "entries of"},
		{"small entries", header(func(h []byte) { le.PutUint32(h[84:], 64) }), gpt.ErrDamaged, "of 64 bytes"},
		{"odd entries", header(func(h []byte) { le.PutUint32(h[84:], 129) }), gpt.ErrDamaged, "of 129 bytes"},
		{"entries on the header", header(func(h []byte) { h[72] = 1 }), gpt.ErrDamaged, "entries in sector 1"},
		{"entries among partitions", header(func(h []byte) { h[72] = 40 }), gpt.ErrDamaged, "entries in sector 40"},
		{"entries reach partitions", header(func(h []byte) { h[72] = 3 }), gpt.ErrDamaged, "entries in sector 3"},
		{"entries past the end", header(func(h []byte) { le.PutUint64(h[72:], 1<<63) }), gpt.ErrDamaged, "entries in sector"},
		{"cut disk", makeDisk(good)[:100*512], gpt.ErrDamaged, "of 100"},
		{"no partition GUID", with(entry{"x", 0, 140, 150}), gpt.ErrDamaged, "partition 5: damaged GPT: no GUID"},
		{"partition backwards", with(entry{"x", 9, 150, 149}), gpt.ErrDamaged, "sectors 150 to 149"},
		{"partition over the table", with(entry{"x", 9, 33, 35}), gpt.ErrDamaged, "sectors 33 to 35"},
		{"partition past the end", with(entry{"x", 9, 150, lastUsable + 1}), gpt.ErrDamaged, "usable are"},
		{"partition of 64 bits", with(entry{"x", 9, 150, 1<<64 - 1}), gpt.ErrDamaged, "usable are"},
		{"overlap by one sector", with(entry{"x", 9, 139, 150}), gpt.ErrDamaged, "partitions 4 and 5 overlap"},
		{"overlap within", with(entry{"x", 9, 45, 46}), gpt.ErrDamaged, "partitions 1 and 5 overlap"},
		{"GUID twice", with(entry{"x", 2, 140, 150}), gpt.ErrDamaged, "partitions 2 and 5 have the same GUID"},
	} {
		_, err := read(tt.disk)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: Read = %v, want %v with %q", tt.name, err, tt.want, tt.text)
		}
	}
	if _, err := gpt.Read(failingReader{}, 1<<20); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("Read of a bad disk = %v, want %v", err, iotest.ErrTimeout)
	}
	if _, err := gpt.Read(bytes.NewReader(nil), -1); !errors.Is(err, gpt.ErrNoTable) {
		t.Errorf("Read of a negative size = %v, want ErrNoTable", err)
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, iotest.ErrTimeout }

// TestBadSectorUnderPrimary reads the backup when the first copy cannot be read.
func TestBadSectorUnderPrimary(t *testing.T) {
	disk := makeDisk(good)
	got, err := gpt.Read(badSector{bytes.NewReader(disk)}, int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want(true), got); diff != "" {
		t.Errorf("Read differs (-want +got):\n%s", diff)
	}
}

type badSector struct{ *bytes.Reader }

func (b badSector) ReadAt(p []byte, at int64) (int, error) {
	if at < 4096 {
		return 0, iotest.ErrTimeout
	}
	return b.Reader.ReadAt(p, at)
}

func TestByName(t *testing.T) {
	table, err := read(makeDisk(append(slices.Clone(good), entry{"twice", 5, 140, 141}, entry{"twice", 6, 142, 143})))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := table.ByName("p.lxrootclone1"); err != nil || p.Number != 4 {
		t.Errorf("ByName(p.lxrootclone1) = %+v, %v, want number 4", p, err)
	}
	_, err = table.ByName("p.spare")
	if !errors.Is(err, gpt.ErrNoPartition) || !strings.Contains(err.Error(), `"p.lxreadonly"`) {
		t.Errorf("ByName(p.spare) = %v, want ErrNoPartition and the names there are", err)
	}
	if _, err = table.ByName("twice"); !errors.Is(err, gpt.ErrDuplicate) || !strings.Contains(err.Error(), "5 and 6") {
		t.Errorf("ByName(twice) = %v, want ErrDuplicate and the numbers", err)
	}
	if _, err := new(gpt.Table).ByName("x"); !errors.Is(err, gpt.ErrNoPartition) {
		t.Errorf("ByName in an empty table = %v, want ErrNoPartition", err)
	}
}

// TestAgainstSfdisk reads what sfdisk wrote.
func TestAgainstSfdisk(t *testing.T) {
	tree := toolstreetest.Open(t)
	for _, sector := range []int64{512, 4096} {
		image := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const size = 64 << 20
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf(`label: gpt
label-id: 6F1D3AF5-28E2-4B54-8C5F-0123456789AB
start=%d, size=%d, name="p.UEFI", type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=11111111-2222-3333-4444-555555555555
size=%d, name="p.lxreadonly", type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=21111111-2222-3333-4444-555555555555
size=%d, name="ümläut €", type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=31111111-2222-3333-4444-555555555555
name="p.spare", type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=41111111-2222-3333-4444-555555555555
`, 1<<20/sector, 8<<20/sector, 16<<20/sector, 16<<20/sector)
		sfdisk := tree.Command("sfdisk", "--quiet", "--sector-size", fmt.Sprint(sector), image)
		sfdisk.Stdin = strings.NewReader(script)
		if err := command.Run(t.Context(), sfdisk); err != nil {
			t.Fatal(err)
		}
		got, err := gpt.Read(f, size)
		if err != nil {
			t.Fatal(err)
		}
		const linux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
		spare := got.Partitions[len(got.Partitions)-1].Size // sfdisk rounds the last one down as it likes
		want := &gpt.Table{
			DiskGUID: "6f1d3af5-28e2-4b54-8c5f-0123456789ab", SectorSize: int(sector),
			Partitions: []gpt.Partition{
				{1, "p.UEFI", "11111111-2222-3333-4444-555555555555", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", 1 << 20, 8 << 20},
				{2, "p.lxreadonly", "21111111-2222-3333-4444-555555555555", linux, 9 << 20, 16 << 20},
				{3, "ümläut €", "31111111-2222-3333-4444-555555555555", linux, 25 << 20, 16 << 20},
				{4, "p.spare", "41111111-2222-3333-4444-555555555555", linux, 41 << 20, spare},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sectors of %d: Read differs (-want +got):\n%s", sector, diff)
		}
		if spare < 21<<20 || spare > 23<<20 {
			t.Errorf("sectors of %d: the last partition has %d bytes, want about 22 MiB", sector, spare)
		}
		// The backup that sfdisk wrote says the same.
		if _, err := f.WriteAt(make([]byte, 3*sector), 0); err != nil {
			t.Fatal(err)
		}
		got, err = gpt.Read(f, size)
		if err != nil {
			t.Fatal(err)
		}
		want.Backup = true
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sectors of %d: Read of the backup differs (-want +got):\n%s", sector, diff)
		}
	}
}

// FuzzRead gives the parser headers and entries with right checksums, so that
// the fuzzer gets behind them.
func FuzzRead(f *testing.F) {
	seed := makeDisk(good)
	f.Add(seed[headerOffset:headerOffset+92], seed[entryOffset:entryOffset+1024])
	twice := makeDisk([]entry{{"a", 1, 40, 60}, {"a", 1, 50, 70}})
	f.Add(twice[headerOffset:headerOffset+92], twice[entryOffset:entryOffset+1024])
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		if len(header) > 512 || len(entries) > 128*128 {
			return
		}
		disk := make([]byte, diskSectors*512)
		copy(disk[headerOffset:], header)
		copy(disk[entryOffset:], entries)
		fixChecksums(disk, headerOffset)
		table, err := read(disk)
		if err != nil {
			return
		}
		for i, p := range table.Partitions {
			if p.Start < 2*512 || p.Size <= 0 || p.Start+p.Size > int64(len(disk)) || p.Number <= i {
				t.Fatalf("partition %+v of a disk of %d bytes", p, len(disk))
			}
			for _, q := range table.Partitions[:i] {
				if p.Start < q.Start+q.Size && q.Start < p.Start+p.Size {
					t.Fatalf("partitions %+v and %+v overlap", p, q)
				}
			}
		}
	})
}
