// Package dm sets up device-mapper devices through the ioctls on
// /dev/mapper/control: as much of it as a verified, read-only root needs.
//
// Most callers need two things: [Verity], whose Target method gives the table of a dm-verity
// device, and [Create], which makes a device out of a target.
//
// Not supported: devices with more than one target, writable devices, changing the
// table of a device that exists, udev cookies, and any target but what the caller
// writes as a parameter string.
//
// The package keeps no state. A device that Create could not finish is removed
// again; a process killed in between leaves a device without a table, which
// answers no reads, and which [Remove] removes.
package dm

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// SectorSize is the unit of a table's start and length, whatever the disk's own is.
const SectorSize = 512

// blockSize is the data and hash block size of a slot image.
const blockSize = 4096

// Target is a device's table: one line of it, from sector 0 on.
type Target struct {
	Sectors uint64 // length of the device
	Type    string // name of the target: "verity"
	Params  string
}

// Verity describes a dm-verity device of format 1 with SHA-256, blocks of 4096 bytes and no
// superblock, whose data starts at the beginning of the data device.
type Verity struct {
	Data, Hash string // block devices as "/dev/..." or "MAJOR:MINOR"; may be the same
	DataBlocks int64
	HashStart  int64 // first block of the hash tree on Hash
	Root       [32]byte
	Salt       []byte
}

// Target returns the table. A block that does not verify is an I/O error to
// its reader: no option asks for more, since what a system does about
// it is for its user space to say.
func (v Verity) Target() (Target, error) {
	switch {
	case v.DataBlocks <= 0 || v.DataBlocks > 1<<51:
		return Target{}, fmt.Errorf("verity table: %d data blocks", v.DataBlocks)
	case v.HashStart < 0:
		return Target{}, fmt.Errorf("verity table: hash tree at block %d", v.HashStart)
	case v.Data == v.Hash && v.HashStart < v.DataBlocks:
		return Target{}, fmt.Errorf("verity table: hash tree at block %d lies in the %d data blocks", v.HashStart, v.DataBlocks)
	case len(v.Salt) > 256:
		return Target{}, fmt.Errorf("verity table: salt of %d bytes", len(v.Salt))
	}
	for _, dev := range []string{v.Data, v.Hash} {
		// Parameters are split at white space, with backslash as the escape.
		if dev == "" || strings.ContainsAny(dev, " \t\n\\") {
			return Target{}, fmt.Errorf("verity table: device %q", dev)
		}
	}
	salt := hex.EncodeToString(v.Salt)
	if salt == "" {
		salt = "-"
	}
	return Target{
		Sectors: uint64(v.DataBlocks) * (blockSize / SectorSize),
		Type:    "verity",
		Params: fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s",
			v.Data, v.Hash, blockSize, blockSize, v.DataBlocks, v.HashStart, hex.EncodeToString(v.Root[:]), salt),
	}, nil
}
