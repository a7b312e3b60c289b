// Package fat reads the structures of a FAT32 volume that is not mounted, and
// changes directory entries, each change one write of one sector.
//
// The kernel's file system driver cannot do that: a rename over a file, and an
// exchange of two, are several writes that reach the disk in any order, and
// between them two entries own the same clusters or an entry owns clusters that
// are free. For the file that the firmware starts, neither may ever be.
//
// [Open] reads a volume: its files ([Volume.Find]) and what is damaged
// ([Volume.Damage]). [Volume.Switch] puts a file in the place of another,
// [Volume.Rename] and [Volume.Detach] are its company, and [Volume.Sum] reads a
// file cluster by cluster, as firmware does.
//
// Crash promise: every change is one write of one sector of 512 bytes, with a flush
// of the medium before it and one after it. A cut leaves the sector as it was or as it is
// meant to be; both are whole. No call changes the allocation table or a file's
// content.
//
// It knows short names only, sectors of 512 bytes only, and makes no entries.
// Nobody may have the volume mounted meanwhile: the caller opens the device
// exclusively. A Volume is for one goroutine.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// SectorSize is the unit that is written whole or not at all.
const SectorSize = 512

// Device is a disk, or a part of one. Reads and writes are of whole sectors.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes what was written durable.
	Sync() error
}

// maxClusters bounds what is read: 16 MiB of allocation table.
const maxClusters = 4 << 20

// Volume is a FAT32 volume.
type Volume struct {
	dev     Device
	data    int64 // where the first cluster, number 2, begins
	cluster int64 // bytes
	limit   uint32
	root    uint32
	table   []byte // the first allocation table, which is the one that firmware reads
	entries []Entry
	damage  []Damage
}

// Open reads the volume on dev.
func Open(dev Device) (*Volume, error) {
	v := &Volume{dev: dev}
	if err := v.load(); err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	return v, nil
}

// load reads everything anew.
func (v *Volume) load() error {
	boot := make([]byte, SectorSize)
	if err := readFull(v.dev, boot, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	perCluster, reserved, tables := int64(boot[13]), int64(le.Uint16(boot[14:])), int64(boot[16])
	tableSectors, total := int64(le.Uint32(boot[36:])), int64(le.Uint32(boot[32:]))
	if total == 0 {
		total = int64(le.Uint16(boot[19:])) // below 32 MiB
	}
	switch {
	case boot[510] != 0x55 || boot[511] != 0xaa:
		return errors.New("it has no boot sector")
	case le.Uint16(boot[11:]) != SectorSize:
		return fmt.Errorf("its sectors have %d bytes, want %d", le.Uint16(boot[11:]), SectorSize)
	case le.Uint16(boot[17:]) != 0 || le.Uint16(boot[22:]) != 0 || tableSectors == 0:
		return errors.New("it is not FAT32")
	case perCluster == 0 || perCluster&(perCluster-1) != 0 || reserved == 0 || tables == 0 || tables > 2:
		return errors.New("its boot sector is damaged")
	case boot[40]&0x80 != 0:
		return errors.New("its allocation tables are not mirrored")
	}
	first := reserved + tables*tableSectors
	clusters := (total - first) / perCluster
	if clusters < 1 || clusters > maxClusters || clusters+2 > tableSectors*SectorSize/4 {
		return fmt.Errorf("it has %d clusters, which cannot be", clusters)
	}
	v.data, v.cluster = first*SectorSize, perCluster*SectorSize
	v.limit, v.root = uint32(clusters)+2, le.Uint32(boot[44:])
	// Whole sectors, but not those behind the last cluster.
	v.table = make([]byte, (int64(v.limit)*4+SectorSize-1)/SectorSize*SectorSize)
	if err := readFull(v.dev, v.table, reserved*SectorSize); err != nil {
		return err
	}
	return v.survey()
}

// at returns where cluster c is on the device.
func (v *Volume) at(c uint32) int64 { return v.data + int64(c-2)*v.cluster }

// errEnd says that a chain of clusters ends.
var errEnd = errors.New("end of chain")

// next returns the cluster that follows c.
func (v *Volume) next(c uint32) (uint32, error) {
	n := binary.LittleEndian.Uint32(v.table[4*c:]) & 0x0fffffff
	if n >= 0x0ffffff8 {
		return 0, errEnd
	}
	return n, nil
}

// allocated says whether a chain may lead to c, and if not, why.
func (v *Volume) allocated(c uint32) error {
	if c < 2 || c >= v.limit {
		return fmt.Errorf("leads to cluster %d, which does not exist", c)
	}
	if n, err := v.next(c); err == nil && n == 0 {
		return fmt.Errorf("leads to cluster %d, which is free", c)
	}
	return nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}
