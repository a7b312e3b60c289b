package slotimage

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Layout of a manifest block; integers are little endian.
const (
	magic   = "EOSSLOT1"
	version = 1

	versionAt = 8
	lengthAt  = 12
	jsonAt    = 16
	signedLen = 3072 // the part that signatures cover

	countAt      = signedLen
	signaturesAt = countAt + 4
	signatureLen = sha256.Size + ed25519.SignatureSize

	// MaxSignatures is how many signatures a block may carry.
	MaxSignatures = 8
)

// domain keeps a signature from being valid for anything else that the same
// key signs.
const domain = "EOS slot manifest v1\x00"

// A Block is a manifest block that was parsed and not verified.
type Block struct {
	signed     [signedLen]byte
	manifest   Manifest
	signatures []signature
}

type signature struct {
	key   [sha256.Size]byte // hash of the public key
	bytes [ed25519.SignatureSize]byte
}

// Sign returns the manifest block of m, signed with each of keys.
func (m *Manifest) Sign(keys ...ed25519.PrivateKey) ([]byte, error) {
	if len(keys) < 1 || len(keys) > MaxSignatures {
		return nil, fmt.Errorf("sign slot manifest: %d keys, want 1 to %d", len(keys), MaxSignatures)
	}
	text, err := m.encode()
	if err != nil {
		return nil, fmt.Errorf("sign slot manifest: %w", err)
	}
	b := Block{manifest: *m}
	copy(b.signed[:], magic)
	binary.LittleEndian.PutUint32(b.signed[versionAt:], version)
	binary.LittleEndian.PutUint32(b.signed[lengthAt:], uint32(len(text)))
	if copy(b.signed[jsonAt:], text) < len(text) {
		return nil, fmt.Errorf("internal error: slot manifest of %d bytes", len(text))
	}
	for _, key := range keys {
		if len(key) != ed25519.PrivateKeySize {
			return nil, errors.New("sign slot manifest: not an Ed25519 private key")
		}
		b.signatures = append(b.signatures, signature{
			key:   keyHash(key.Public().(ed25519.PublicKey)),
			bytes: [ed25519.SignatureSize]byte(ed25519.Sign(key, b.message())),
		})
	}
	slices.SortFunc(b.signatures, signature.compare)
	for i := range b.signatures[1:] {
		if b.signatures[i].key == b.signatures[i+1].key {
			return nil, fmt.Errorf("sign slot manifest: key %s given twice", b.signatures[i].id())
		}
	}
	return b.Marshal(), nil
}

// ParseBlock checks the syntax of a manifest block, and nothing else. A block
// without the format's magic is [ErrNoManifest].
func ParseBlock(b []byte) (*Block, error) {
	if len(b) != BlockSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrFormat, len(b), BlockSize)
	}
	if string(b[:len(magic)]) != magic {
		return nil, ErrNoManifest
	}
	if v := binary.LittleEndian.Uint32(b[versionAt:]); v != version {
		return nil, fmt.Errorf("%w %d, want %d", ErrVersion, v, version)
	}
	n := binary.LittleEndian.Uint32(b[lengthAt:])
	if n > signedLen-jsonAt {
		return nil, fmt.Errorf("%w: length %d", ErrFormat, n)
	}
	text, rest := b[jsonAt:jsonAt+n], b[jsonAt+n:signedLen]
	if !isZero(rest) {
		return nil, fmt.Errorf("%w: bytes after the manifest", ErrFormat)
	}
	m, err := decodeManifest(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	block := &Block{manifest: *m, signed: [signedLen]byte(b)}
	count := binary.LittleEndian.Uint32(b[countAt:])
	if count > MaxSignatures {
		return nil, fmt.Errorf("%w: %d signatures", ErrFormat, count)
	}
	rest = b[signaturesAt:]
	for range count {
		s := signature{
			key:   [sha256.Size]byte(rest),
			bytes: [ed25519.SignatureSize]byte(rest[sha256.Size:]),
		}
		if n := len(block.signatures); n > 0 && block.signatures[n-1].compare(s) >= 0 {
			return nil, fmt.Errorf("%w: signatures not in order of their keys", ErrFormat)
		}
		block.signatures = append(block.signatures, s)
		rest = rest[signatureLen:]
	}
	if !isZero(rest) {
		return nil, fmt.Errorf("%w: bytes after the signatures", ErrFormat)
	}
	return block, nil
}

// Marshal returns the bytes of the block.
func (b *Block) Marshal() []byte {
	out := make([]byte, BlockSize)
	copy(out, b.signed[:])
	binary.LittleEndian.PutUint32(out[countAt:], uint32(len(b.signatures)))
	at := out[signaturesAt:]
	for _, s := range b.signatures {
		copy(at, s.key[:])
		copy(at[sha256.Size:], s.bytes[:])
		at = at[signatureLen:]
	}
	return out
}

// Verify returns the manifest if at least one accepted key signed it. A wrong
// signature in the name of an accepted key is an error even beside a right one.
func (b *Block) Verify(accepted []ed25519.PublicKey) (*Manifest, error) {
	if len(b.signatures) == 0 {
		return nil, ErrUnsigned
	}
	good := false
	for _, s := range b.signatures {
		for _, key := range accepted {
			if keyHash(key) != s.key {
				continue
			}
			if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, b.message(), s.bytes[:]) {
				return nil, fmt.Errorf("%w (key %s)", ErrBadSignature, s.id())
			}
			good = true
		}
	}
	if !good {
		return nil, fmt.Errorf("%w (signed by %s)", ErrUnknownKey, strings.Join(b.KeyIDs(), ", "))
	}
	return b.Unverified(), nil
}

// Unverified returns the manifest whoever wrote it. It is for showing, never
// for deciding.
func (b *Block) Unverified() *Manifest {
	m := b.manifest
	return &m
}

// KeyIDs returns the ids of the keys that the signatures name, as key.Public
// has them.
func (b *Block) KeyIDs() []string {
	var ids []string
	for _, s := range b.signatures {
		ids = append(ids, s.id())
	}
	return ids
}

// message returns the bytes that are signed.
func (b *Block) message() []byte { return append([]byte(domain), b.signed[:]...) }

func (s signature) compare(o signature) int { return bytes.Compare(s.key[:], o.key[:]) }

func (s signature) id() string { return hex.EncodeToString(s.key[:8]) }

func keyHash(key ed25519.PublicKey) [sha256.Size]byte { return sha256.Sum256(key) }

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
