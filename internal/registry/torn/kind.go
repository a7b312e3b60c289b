package torn

import (
	"encoding/binary"
	"hash/crc32"
)

// blockSize is the only size of blocks handled: that of every registry.
const blockSize = 4096

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// kind is where a kind of block has what makes it known. All but the checksum is big endian.
type kind struct {
	name   string
	crc    int // CRC-32C of the block with zeros here, little endian
	lsn    int
	uuid   int
	number int // where the block lies, in sectors; -1: it does not say
}

var (
	btree     = kind{"", 52, 24, 32, 16}
	directory = kind{"", 4, 16, 24, 8}
	hashed    = kind{"", 12, 24, 32, 16}
)

func (k kind) named(name string) kind { k.name = name; return k }

// Kinds by the 32 bits that a block begins with.
var kinds = map[uint32]kind{
	0x41423342: btree.named("free space by block"),      // AB3B
	0x41423343: btree.named("free space by size"),       // AB3C
	0x49414233: btree.named("inode index"),              // IAB3
	0x46494233: btree.named("free inode index"),         // FIB3
	0x524d4233: btree.named("reverse map"),              // RMB3
	0x52334643: btree.named("reference counts"),         // R3FC
	0x424d4133: {"extent map", 64, 32, 40, 24},          // BMA3
	0x5841464c: {"free list", 32, 24, 8, -1},            // XAFL
	0x58444233: directory.named("directory"),            // XDB3
	0x58444433: directory.named("directory data"),       // XDD3
	0x58444633: directory.named("directory free space"), // XDF3
	0x58534c4d: {"symbolic link", 12, 48, 16, 40},       // XSLM
}

// Kinds by the 16 bits at [hashedMagic].
var hashedKinds = map[uint16]kind{
	0x3df1: hashed.named("directory leaf"),
	0x3dff: hashed.named("directory leaf of many"),
	0x3ebe: hashed.named("directory or attribute node"),
	0x3bee: hashed.named("attribute leaf"),
}

const hashedMagic = 8

// kindOf knows a block by its magic.
func kindOf(b []byte) (kind, bool) {
	if k, ok := kinds[binary.BigEndian.Uint32(b)]; ok {
		return k, true
	}
	k, ok := hashedKinds[binary.BigEndian.Uint16(b[hashedMagic:])]
	return k, ok
}

// suspicious tells whether a block belongs to the file system and where it lies, has an LSN, and a wrong
// checksum.
func suspicious(b []byte, number int64, uuid [16]byte) (kind, bool) {
	k, ok := kindOf(b)
	if !ok || [16]byte(b[k.uuid:]) != uuid || k.lsnOf(b) == 0 || k.intact(b) {
		return k, false
	}
	return k, k.number < 0 || binary.BigEndian.Uint64(b[k.number:]) == uint64(number)
}

func (k kind) lsnOf(b []byte) uint64 { return binary.BigEndian.Uint64(b[k.lsn:]) }

// keepStamp gives b the checksum and LSN of another version of the block.
func (k kind) keepStamp(b, from []byte) {
	copy(b[k.crc:][:4], from[k.crc:])
	copy(b[k.lsn:][:8], from[k.lsn:])
}

func (k kind) intact(b []byte) bool { return sum(b, k.crc) == binary.LittleEndian.Uint32(b[k.crc:]) }

// sum is the CRC-32C of b with four zeros at an offset.
func sum(b []byte, at int) uint32 {
	crc := crc32.Checksum(b[:at], castagnoli)
	crc = crc32.Update(crc, castagnoli, make([]byte, 4))
	return crc32.Update(crc, castagnoli, b[at+4:])
}
