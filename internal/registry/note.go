package registry

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// Note is what the device remembers about its registry outside of it, in one sector on the boot
// partition: it has to be readable while the registry is not.
type Note struct {
	// Worked says that the last boot that proved itself had a registry. A trial that has none
	// then is not healthy.
	Worked bool `json:"worked,omitempty"`
	// Active is the UUID of the file system or LUKS2 device that is used in place of the
	// built-in registry; empty: none.
	Active string `json:"active,omitempty"`
}

const sector = 512

var noteMagic = []byte("EOSREG1\n")

const noteHead = 16 // magic, length, CRC-32 of the JSON, little endian

var errNoNote = errors.New("damaged note about the registry")

// Marshal returns the sector.
func (n Note) Marshal() ([]byte, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	if len(text) > sector-noteHead {
		return nil, fmt.Errorf("write note about the registry: %d bytes do not fit into a sector", len(text))
	}
	b := make([]byte, sector)
	copy(b, noteMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(text)))
	binary.LittleEndian.PutUint32(b[12:], crc32.ChecksumIEEE(text))
	copy(b[noteHead:], text)
	return b, nil
}

// ParseNote reads the sector. One of zeros, as the builder leaves it, is the zero Note.
func ParseNote(b []byte) (Note, error) {
	var n Note
	if len(b) < sector {
		return n, errNoNote
	}
	b = b[:sector]
	if len(bytes.Trim(b, "\x00")) == 0 {
		return n, nil
	}
	size := binary.LittleEndian.Uint32(b[8:])
	if !bytes.HasPrefix(b, noteMagic) || size > sector-noteHead {
		return n, errNoNote
	}
	text := b[noteHead:][:size]
	if crc32.ChecksumIEEE(text) != binary.LittleEndian.Uint32(b[12:]) {
		return n, errNoNote
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return Note{}, errNoNote
	}
	return n, nil
}
