package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"strings"
	"unicode/utf16"
)

// The EFI system partition is read by code of our own, which only reads: it must
// bear what a power cut or an attacker left (chains that are circles, file
// allocation tables that differ) and must tell a read error from an empty file.

// errFAT says that a FAT filesystem is damaged or of a kind not read here.
var errFAT = errors.New("damaged FAT filesystem")

// A volume is a FAT16 or FAT32 filesystem.
type volume struct {
	r        io.ReaderAt
	fatAt    int64 // first file allocation table
	dataAt   int64 // cluster 2
	cluster  int64 // bytes in one
	clusters uint32
	entry    int64 // bytes of a table entry, 2 or 4
	rootAt   int64 // FAT16: the root directory is outside of the clusters
	rootLen  int64
	root     uint32 // FAT32: the root directory's first cluster

	page   [4096]byte // of the table, the last one used
	pageAt int64
}

func openVolume(r io.ReaderAt, size int64) (*volume, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read boot sector: %w", err)
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, tables, rootEntries := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total := int64(le.Uint16(b[19:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	tableLen, isFAT32 := int64(le.Uint16(b[22:])), false
	if tableLen == 0 {
		tableLen, isFAT32 = int64(le.Uint32(b[36:])), true
	}
	if b[510] != 0x55 || b[511] != 0xaa || sector < 512 || sector > 4096 || bits.OnesCount64(uint64(sector)) != 1 ||
		bits.OnesCount8(b[13]) != 1 || reserved < 1 || tables < 1 || tables > 2 || total*sector > size {
		return nil, fmt.Errorf("%w: boot sector", errFAT)
	}
	rootLen := (rootEntries*32 + sector - 1) / sector
	data := total - reserved - tables*tableLen - rootLen
	v := &volume{
		r:       r,
		fatAt:   reserved * sector,
		rootAt:  (reserved + tables*tableLen) * sector,
		rootLen: rootLen * sector,
		cluster: perCluster * sector,
		entry:   2,
		pageAt:  -1,
	}
	v.dataAt = v.rootAt + v.rootLen
	if isFAT32 {
		v.entry, v.root = 4, le.Uint32(b[44:])
	}
	n := data / perCluster
	if data < 1 || n < 4085 && !isFAT32 || n > 0x0ffffff4 || (n+2)*v.entry > tableLen*sector {
		return nil, fmt.Errorf("%w: %d clusters", errFAT, n)
	}
	v.clusters = uint32(n)
	return v, nil
}

// next returns the cluster that follows c in its chain, 0 at the end.
func (v *volume) next(c uint32) (uint32, error) {
	at := int64(c) * v.entry
	if page := at / int64(len(v.page)); page != v.pageAt {
		v.pageAt = -1
		// The table may end within the page; what is read past it is not used.
		n, err := v.r.ReadAt(v.page[:], v.fatAt+page*int64(len(v.page)))
		if err != nil && (!errors.Is(err, io.EOF) || int64(n) < at%int64(len(v.page))+v.entry) {
			return 0, err
		}
		v.pageAt = page
	}
	b := v.page[at%int64(len(v.page)):]
	if v.entry == 2 {
		c = uint32(binary.LittleEndian.Uint16(b))
		if c >= 0xfff8 {
			return 0, nil
		}
	} else {
		c = binary.LittleEndian.Uint32(b) & 0x0fffffff
		if c >= 0x0ffffff8 {
			return 0, nil
		}
	}
	if !v.valid(c) {
		return 0, fmt.Errorf("%w: a chain leads to cluster %d", errFAT, c)
	}
	return c, nil
}

func (v *volume) valid(c uint32) bool { return c >= 2 && c-2 < v.clusters }

// A fatFile reads a chain of clusters from its start.
type fatFile struct {
	v       *volume
	size    int64 // of a file; a directory ends with its chain
	isDir   bool
	cluster uint32
	steps   uint32 // clusters gone through, a chain longer than the volume is a circle
	offset  int64  // within the cluster
	left    int64
}

func (v *volume) file(first uint32, size int64, isDir bool) (*fatFile, error) {
	if (size > 0 || isDir) && !v.valid(first) {
		return nil, fmt.Errorf("%w: a file begins at cluster %d", errFAT, first)
	}
	return &fatFile{v: v, size: size, isDir: isDir, cluster: first, left: size}, nil
}

// Read implements io.Reader.
func (f *fatFile) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if !f.isDir && f.left == 0 {
		return 0, io.EOF
	}
	if f.offset == f.v.cluster {
		next, err := f.v.next(f.cluster)
		if err != nil {
			return 0, err
		}
		if f.steps++; f.steps > f.v.clusters {
			return 0, fmt.Errorf("%w: a chain is a circle", errFAT)
		}
		if next == 0 {
			if f.isDir {
				return 0, io.EOF
			}
			return 0, fmt.Errorf("%w: a file ends %d bytes early", errFAT, f.left)
		}
		f.cluster, f.offset = next, 0
	}
	n := min(int64(len(b)), f.v.cluster-f.offset)
	if !f.isDir {
		n = min(n, f.left)
	}
	at := f.v.dataAt + int64(f.cluster-2)*f.v.cluster + f.offset
	if got, err := f.v.r.ReadAt(b[:n], at); int64(got) < n {
		return 0, fmt.Errorf("at %d: %w", at, err)
	}
	f.offset, f.left = f.offset+n, f.left-n
	return int(n), nil
}

// maxDir is the size of the largest directory that FAT allows.
const maxDir = 65536 * 32

// open finds a file by its path, with slashes between the parts. One that is
// not there is fs.ErrNotExist.
func (v *volume) open(path string) (*fatFile, error) {
	var dir io.Reader = io.NewSectionReader(v.r, v.rootAt, v.rootLen)
	if v.entry == 4 {
		root, err := v.file(v.root, 0, true)
		if err != nil {
			return nil, err
		}
		dir = root
	}
	for {
		part, rest, more := strings.Cut(path, "/")
		if part == "" {
			return nil, fs.ErrNotExist
		}
		f, err := v.lookup(dir, part)
		switch {
		case err != nil:
			return nil, err
		case !more && f.isDir:
			return nil, fmt.Errorf("%q is a directory", part)
		case !more:
			return f, nil
		case !f.isDir:
			return nil, fs.ErrNotExist
		}
		dir, path = f, rest
	}
}

// lookup finds an entry by its long or its short name.
func (v *volume) lookup(dir io.Reader, name string) (*fatFile, error) {
	const isLong, isVolume, isDir = 0x0f, 0x08, 0x10
	le := binary.LittleEndian
	var long longName
	var e [32]byte
	for read := 0; read < maxDir; read += len(e) {
		_, err := io.ReadFull(dir, e[:])
		if errors.Is(err, io.EOF) || err == nil && e[0] == 0 {
			return nil, fs.ErrNotExist
		}
		if err != nil {
			return nil, err
		}
		attributes := e[11]
		switch {
		case e[0] == 0xe5:
			long = longName{}
			continue
		case attributes&0x3f == isLong:
			long.add(e[:])
			continue
		}
		matches := strings.EqualFold(shortName(e[:]), name) || strings.EqualFold(long.of(e[:]), name)
		long = longName{}
		if attributes&isVolume != 0 || !matches {
			continue
		}
		first := uint32(le.Uint16(e[26:]))
		if v.entry == 4 {
			first |= uint32(le.Uint16(e[20:])) << 16
		}
		if attributes&isDir != 0 {
			return v.file(first, 0, true)
		}
		return v.file(first, int64(le.Uint32(e[28:])), false)
	}
	return nil, fmt.Errorf("%w: a directory without end", errFAT)
}

func shortName(e []byte) string {
	base, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// A longName is put together from the entries before the one it names, the
// last part of the name first.
type longName struct {
	units    []uint16
	next     byte // number of the entry that has to come next
	checksum byte
}

func (l *longName) add(e []byte) {
	number, first := e[0]&0x3f, e[0]&0x40 != 0
	if first {
		*l = longName{checksum: e[13], next: number}
	}
	if number == 0 || number != l.next || e[13] != l.checksum {
		*l = longName{}
		return
	}
	var units []uint16
	for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		u := binary.LittleEndian.Uint16(e[at:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	l.units = append(units, l.units...)
	l.next--
}

// of returns the long name if it is whole and belongs to the short entry e.
func (l *longName) of(e []byte) string {
	var sum byte
	for _, c := range e[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	if l.next != 0 || len(l.units) == 0 || sum != l.checksum {
		return ""
	}
	return string(utf16.Decode(l.units))
}
