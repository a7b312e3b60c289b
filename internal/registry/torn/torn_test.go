package torn_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/OSInside/eos/internal/registry/torn"
)

// A file system as small as the package takes: a superblock, a directory, and a journal with one
// change of the directory. TestHeal in package registry has real ones.
const (
	block      = 4096
	dirAt      = 2 * block
	logAt      = 4 * block
	logSectors = 32
	diskSize   = 9 * block
)

var uuid = []byte("uuid of the disk")

func seal(b []byte, at int) {
	clear(b[at:][:4])
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func put32(b []byte, at int, v uint32) { binary.BigEndian.PutUint32(b[at:], v) }
func put64(b []byte, at int, v uint64) { binary.BigEndian.PutUint64(b[at:], v) }

func superblock() []byte {
	b := make([]byte, block)
	copy(b, "XFSB")
	put32(b, 4, block)
	put64(b, 8, diskSize/block)
	copy(b[32:], uuid)
	put64(b, 48, 4) // where the journal begins
	put32(b, 84, 16)
	put32(b, 96, logSectors*512/block)
	binary.BigEndian.PutUint16(b[100:], 5)
	binary.BigEndian.PutUint16(b[102:], block)
	b[124] = 4
	seal(b, 224)
	return b
}

// directory is a block full of a byte.
func directory(fill byte, lsn uint64) []byte {
	b := bytes.Repeat([]byte{fill}, block)
	copy(b, "XDB3")
	put64(b, 8, dirAt/512)
	put64(b, 16, lsn)
	copy(b[24:], uuid)
	put64(b, 40, 128)
	seal(b, 4)
	return b
}

func op(flags byte, region []byte) []byte {
	b := make([]byte, 12)
	put32(b, 0, 7)
	put32(b, 4, uint32(len(region)))
	b[8], b[9] = 0x69, flags
	return append(b, region...)
}

// changeOf is the item for a whole block, its data in two regions, the second in two pieces.
func changeOf(content []byte, flags uint16) []byte {
	format := make([]byte, 24)
	le := binary.LittleEndian
	le.PutUint16(format, 0x123c)
	le.PutUint16(format[2:], 3)
	le.PutUint16(format[4:], flags)
	le.PutUint16(format[6:], block/512)
	le.PutUint64(format[8:], dirAt/512)
	le.PutUint32(format[16:], 1)
	le.PutUint32(format[20:], 0xffffffff)
	return bytes.Join([][]byte{op(0, format), op(0, content[:512]), op(4, content[512:1000]), op(8, content[1000:])}, nil)
}

func transaction(items ...[]byte) []byte {
	return bytes.Join([][]byte{op(1, nil), op(0, make([]byte, 16)), bytes.Join(items, nil), op(2, nil)}, nil)
}

// record is a record that begins at a sector of the log.
func record(at int, ops []byte) []byte {
	const cycle = 3
	body := append(ops, make([]byte, -len(ops)&511)...)
	b := append(make([]byte, 512), body...)
	put32(b, 0, 0xfeedbabe)
	put32(b, 4, cycle)
	put32(b, 8, 2)
	put32(b, 12, uint32(len(body)))
	put64(b, 16, lsn(at))
	put64(b, 24, lsn(at))
	copy(b[304:], uuid)
	put32(b, 320, 32<<10)
	for i := 512; i < len(b); i += 512 {
		copy(b[44+(i/512-1)*4:], b[i:][:4])
		put32(b, i, cycle)
	}
	sealRecord(b)
	return b
}

func sealRecord(b []byte) {
	clear(b[32:][:4])
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(b[32:], crc32.Update(crc32.Checksum(b[:328], table), table, b[512:]))
}

func lsn(at int) uint64 { return 3<<32 | uint64(at) }

// disk puts it together.
func disk(dir []byte, at int, rec []byte) []byte {
	d := make([]byte, diskSize)
	copy(d, superblock())
	copy(d[dirAt:], dir)
	n := copy(d[logAt+at*512:logAt+logSectors*512], rec)
	copy(d[logAt:], rec[n:])
	return d
}

// mix is a block of which the disk has the sectors of now whose bits are set.
func mix(old, now []byte, sectors int) []byte {
	b := bytes.Clone(old)
	for i := range block / 512 {
		if sectors>>i&1 != 0 {
			copy(b[i*512:][:512], now[i*512:])
		}
	}
	return b
}

// Whatever sectors have reached the disk with the first, the block is found, also where writing it
// again was cut; also where the record goes on at the start of the log.
func TestFind(t *testing.T) {
	for _, at := range []int{0, 28} {
		old, now := directory(1, lsn(0)-9), directory(2, lsn(at))
		rec := record(at, transaction(changeOf(directory(2, lsn(0)-9), 0)))
		for sectors := range 1 << (block / 512) {
			got, err := torn.Find(bytes.NewReader(disk(mix(old, now, sectors), at, rec)))
			if err != nil {
				t.Fatal(err)
			}
			if sectors&1 == 0 || sectors == 0xff {
				if len(got) > 0 {
					t.Errorf("Find with sectors %08b new = %d blocks, want none: recovery replays it itself", sectors, len(got))
				}
			} else if len(got) != 1 || got[0].At != dirAt || got[0].Kind != "directory" || !bytes.Equal(got[0].Whole, now) {
				t.Errorf("Find with sectors %08b new = %d blocks, want the directory", sectors, len(got))
			}
		}
	}
}

// What is not proved is not touched.
func TestFindRefuses(t *testing.T) {
	old, now := directory(1, 5), directory(2, lsn(0))
	half := mix(old, now, 1)
	rec := record(0, transaction(changeOf(now, 0)))
	change := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	elsewhere := bytes.Clone(now)
	elsewhere[3000] ^= 1
	for name, d := range map[string][]byte{
		"unknown magic":                  disk(change(half, 0), 0, rec),
		"wrong checksum":                 disk(change(half, 4), 0, rec),
		"another place":                  disk(change(half, 15), 0, rec),
		"an LSN of no change":            disk(change(half, 22), 0, rec),
		"another file system":            disk(change(half, 24), 0, rec),
		"another first sector":           disk(change(half, 300), 0, rec),
		"a change to something else":     disk(half, 0, record(0, transaction(changeOf(elsewhere, 0)))),
		"a change that is not committed": disk(half, 0, record(0, bytes.TrimSuffix(transaction(changeOf(now, 0)), op(2, nil)))),
		"a change of inodes":             disk(half, 0, record(0, transaction(changeOf(now, 1)))),
		"a block that was given back":    disk(half, 0, record(0, transaction(changeOf(now, 0), changeOf(now, 2)))),
		"no change":                      disk(half, 0, record(0, transaction())),
	} {
		if got, err := torn.Find(bytes.NewReader(d)); err != nil || len(got) != 0 {
			t.Errorf("%s: Find = %d blocks, %v, want none", name, len(got), err)
		}
	}
	for name, d := range map[string][]byte{
		"a damaged journal":    change(disk(half, 0, rec), logAt+900),
		"a damaged superblock": change(disk(half, 0, rec), 200),
		"a short disk":         disk(half, 0, rec)[:logAt+512],
		"nothing":              nil,
	} {
		if got, err := torn.Find(bytes.NewReader(d)); err == nil {
			t.Errorf("%s: Find = %d blocks, want an error", name, len(got))
		}
	}
}

// Whatever lies on the disk: what is found is in its place, and has the first sector that lies there.
func FuzzFind(f *testing.F) {
	now := directory(1, lsn(0))
	copy(now[5*128:], bytes.Repeat([]byte{2}, 128))
	seal(now, 4)
	half := directory(1, 5)
	copy(half, now[:512])
	format := []byte("\x3c\x12\x03\x00\x00\x00\x08\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x21\x00\x00\x00")
	small := bytes.Join([][]byte{op(0, format), op(0, now[:128]), op(4, now[5*128:][:60]), op(8, now[5*128+60:][:68])}, nil)
	for _, ops := range [][]byte{transaction(small), transaction(small, small), transaction()} {
		f.Add(superblock()[:256], half[:128], ops)
	}
	if got, err := torn.Find(bytes.NewReader(disk(half, 0, record(0, transaction(small))))); err != nil || len(got) != 1 || !bytes.Equal(got[0].Whole, now) {
		f.Fatalf("Find in the first seed = %d blocks, %v, want the directory", len(got), err)
	}
	f.Fuzz(func(t *testing.T, super, head, ops []byte) {
		if len(super) > block || len(head) > block || len(ops) > logSectors/2*512 {
			return
		}
		d := disk(half, 0, record(0, bytes.Clone(ops)))
		copy(d, super)
		seal(d[:block], 224) // checksums are no wall: who writes the rest can make them
		copy(d[dirAt:], head)
		got, err := torn.Find(bytes.NewReader(d))
		if err != nil {
			return
		}
		for _, b := range got {
			if b.At%512 != 0 || b.At < 0 || b.At+block > int64(len(d)) || len(b.Whole) != block || !bytes.Equal(b.Whole[:512], d[b.At:][:512]) {
				t.Fatalf("found a %s of %d bytes at %d", b.Kind, len(b.Whole), b.At)
			}
			copy(d[b.At:], b.Whole)
		}
		if again, err := torn.Find(bytes.NewReader(d)); err == nil && len(got) == 1 && len(again) != 0 && again[0].At == got[0].At {
			t.Errorf("a %s at %d is torn again after it was written", got[0].Kind, got[0].At)
		}
	})
}
