// Package head is the start of a registry's partition: the builder's mark on a blank one, the kinds
// of content it can have, and the copy of a LUKS2 header that the boot partition keeps.
//
// [Mark] is for the builder, [Classify] for who opens a partition, [MarshalCopy] and [ParseCopy] are the
// copy's format. docs/design/registry.md specifies them. The package holds no state and does
// no I/O; it checks what it parses, and says nothing about who wrote it.
package head

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Size is the size of the area before the data of a registry, in bytes: with LUKS2 two headers
// of 16 KiB and the key slots.
const Size = 4 << 20

const sector = 512

// Room is what [Classify] wants to see of a device, in bytes.
const Room = 20 << 10

// Mark returns the first sector of a registry partition that the builder leaves blank. The GUID is
// that of the disk the image is for, so that a mark on any other disk means nothing.
func Mark(diskGUID string) []byte {
	b := make([]byte, sector)
	copy(b, fmt.Sprintf("EOS blank registry 1\ndisk %s\n", strings.ToLower(diskGUID)))
	return b
}

// MachineID returns the machine id in the GUID of a registry's partition; empty if it is still the builder's.
// Those are made from names (RFC 9562, version 5), machine ids of random numbers (version 4).
func MachineID(guid string) string {
	if len(guid) != 36 || guid[14] != '4' {
		return ""
	}
	return strings.ReplaceAll(guid, "-", "")
}

// Kind is what lies at the start of a device.
type Kind int

// Kinds of content.
const (
	Unknown Kind = iota // nothing that is ours: never touched
	Blank               // the builder's mark
	LUKS                // LUKS2, perhaps with only its second header
	Plain               // XFS without encryption
	Empty               // zeros
)

// String names a kind for messages.
func (k Kind) String() string {
	return [...]string{"unknown data", "blank", "LUKS2", "unencrypted XFS", "nothing but zeros"}[k]
}

// Magic numbers: LUKS2 on-disk format specification 1.1.3, 2.1; XFS algorithms and data
// structures, 3rd edition, superblocks.
var (
	luksFirst  = []byte("LUKS\xba\xbe")
	luksSecond = []byte("SKUL\xba\xbe")
	xfsMagic   = []byte("XFSB")
)

// secondHeader is where the second LUKS2 header lies, behind a first one of the smallest size.
const secondHeader = 16 << 10

// Classify says what the first Room bytes of a device are. A damaged first LUKS2 header whose
// copy is there is LUKS: cryptsetup restores it.
func Classify(head []byte, diskGUID string) Kind {
	if len(head) < sector {
		return Unknown
	}
	switch {
	case bytes.Equal(head[:sector], Mark(diskGUID)):
		return Blank
	case isLUKS2(head, luksFirst):
		return LUKS
	case bytes.HasPrefix(head, xfsMagic):
		return Plain
	}
	if len(head) > secondHeader && isLUKS2(head[secondHeader:], luksSecond) {
		return LUKS
	}
	if len(bytes.Trim(head, "\x00")) == 0 {
		return Empty
	}
	return Unknown
}

func isLUKS2(b, magic []byte) bool {
	return len(b) >= 8 && bytes.HasPrefix(b, magic) && binary.BigEndian.Uint16(b[6:]) == 2
}
