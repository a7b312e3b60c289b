package slotimage

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/OSInside/eos/internal/verity"
)

// MaxDataSize bounds the filesystem in an image.
const MaxDataSize = verity.MaxDataBlocks * BlockSize

// Hash is a SHA-256 hash or a salt of the same length, in JSON 64 lower case
// hexadecimal digits.
type Hash [32]byte

// String returns h in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns h in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("hash of %d digits, want %d", len(b), 2*len(h))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// A Manifest says what an image is and what its bytes must be. The order of
// the fields is part of the format.
type Manifest struct {
	Name          string `json:"name"`           // image name
	Class         string `json:"class"`          // device class the image is for
	Arch          string `json:"arch"`           // architecture
	Version       string `json:"version"`        // compared by Debian's rules
	BuildID       string `json:"build_id"`       // ties image and kernel image together
	DataSize      int64  `json:"data_size"`      // filesystem with padding, bytes
	ImageSize     int64  `json:"image_size"`     // whole image, bytes
	Salt          Hash   `json:"salt"`           // of the hash tree
	RootHash      Hash   `json:"root_hash"`      // of the hash tree
	SquashfsLevel int    `json:"squashfs_level"` // compression level, 0 where the compressor has none
	Compressor    string `json:"compressor"`     // compressor and, after a dash, version of the encoder
	Built         int64  `json:"built"`          // seconds since 1970
}

// ManifestOffset returns where the manifest block is.
func (m *Manifest) ManifestOffset() int64 { return m.DataSize }

// TreeOffset returns where the hash tree is.
func (m *Manifest) TreeOffset() int64 { return m.DataSize + BlockSize }

// DataBlocks returns the number of blocks that the hash tree covers.
func (m *Manifest) DataBlocks() int64 { return m.DataSize / BlockSize }

// VerityParams returns the parameters of the hash tree.
func (m *Manifest) VerityParams() verity.Params {
	return verity.Params{DataBlocks: m.DataBlocks(), Salt: m.Salt[:]}
}

// ImageSize returns the size of an image whose filesystem, with padding, has
// the given size.
func ImageSize(dataSize int64) int64 {
	return dataSize + BlockSize + verity.TreeSize(dataSize/BlockSize)
}

// word is what the strings of a manifest look like. They end up in file names,
// on command lines and on consoles, and JSON has one way to write them.
var word = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+~:-]{0,127}$`)

// Check returns an error that is [ErrManifest] for a manifest that must not be
// signed.
func (m *Manifest) Check() error {
	for _, f := range []struct{ name, value string }{
		{"name", m.Name}, {"class", m.Class}, {"arch", m.Arch},
		{"version", m.Version}, {"build_id", m.BuildID}, {"compressor", m.Compressor},
	} {
		if !word.MatchString(f.value) {
			return fmt.Errorf("%w: %s %q (want up to 128 letters, digits and ._+~:-, a letter or digit first)",
				ErrManifest, f.name, f.value)
		}
	}
	switch {
	case m.DataSize < BlockSize || m.DataSize > MaxDataSize || m.DataSize%BlockSize != 0:
		return fmt.Errorf("%w: data size %d", ErrManifest, m.DataSize)
	case m.ImageSize != ImageSize(m.DataSize):
		return fmt.Errorf("%w: image size %d, want %d for %d bytes of data",
			ErrManifest, m.ImageSize, ImageSize(m.DataSize), m.DataSize)
	case m.Salt == Hash{}:
		return fmt.Errorf("%w: no salt", ErrManifest)
	case m.RootHash == Hash{}:
		return fmt.Errorf("%w: no root hash", ErrManifest)
	case m.SquashfsLevel < 0 || m.SquashfsLevel > 99:
		return fmt.Errorf("%w: squashfs level %d", ErrManifest, m.SquashfsLevel)
	case m.Built < 0 || m.Built > 1<<40:
		return fmt.Errorf("%w: build time %d", ErrManifest, m.Built)
	}
	return nil
}

// encode returns the one encoding of a manifest.
func (m *Manifest) encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// decodeManifest accepts nothing that encode would not write: no other order,
// spacing, spelling of names, escapes, or repeated and unknown members.
func decodeManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	same, err := m.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, same) {
		return nil, errors.New("not in canonical form")
	}
	return &m, nil
}
