// Package key holds Ed25519 keys in files: the private half NAME.key (PKCS #8 PEM, mode
// 0600), the public half NAME.pub (PKIX PEM), both readable by OpenSSL.
//
// [Generate] makes a pair and never replaces a file. [LoadPrivate] and [LoadPublicDir] read
// them back. A key is known by its ID, the first 16 hexadecimal digits of the SHA-256 of
// the 32 bytes of the public key; names are for people only.
//
// Private keys are not encrypted: whoever reads the file has the key. Other key types than
// Ed25519 are refused. The package imports only the standard library, because eos-init uses
// it. New files are synced before [Generate] returns; if it is cut, a NAME.key may be left
// without its NAME.pub, never a NAME.pub without its key.
package key

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile bounds a key file; a real one has about 120 bytes.
const maxFile = 16 << 10

// Public is a public key.
type Public struct {
	ID   string // see [ID]
	Name string // of the file, without .pub; empty when it did not come from one
	Key  ed25519.PublicKey
}

// Private is a private key.
type Private struct {
	ID   string // see [ID]
	Name string // of the file, without .key; empty when it did not come from one
	Key  ed25519.PrivateKey
}

// Public returns the public half.
func (p Private) Public() Public {
	return Public{ID: p.ID, Name: p.Name, Key: p.Key.Public().(ed25519.PublicKey)}
}

// ID returns the first 16 hexadecimal digits of the SHA-256 of the raw public key.
func ID(k ed25519.PublicKey) string {
	sum := sha256.Sum256(k)
	return hex.EncodeToString(sum[:8])
}

const (
	publicType  = "PUBLIC KEY"
	privateType = "PRIVATE KEY"
)

// DER allows one encoding of each half of an Ed25519 key (RFC 8410): these bytes, then the
// 32 of the key or seed. Package crypto/x509 reads them too, but brings package net and a
// megabyte of other key types into eos-init. The tests compare both.
var (
	publicPrefix  = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	privatePrefix = []byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20}
)

var errType = errors.New("not an Ed25519 key in its standard form")

// ParsePublic parses a PEM file with one Ed25519 public key.
func ParsePublic(data []byte) (Public, error) {
	der, err := parsePEM(data, publicType)
	if err != nil {
		return Public{}, fmt.Errorf("parse public key: %w", err)
	}
	raw, ok := bytes.CutPrefix(der, publicPrefix)
	if !ok || len(raw) != ed25519.PublicKeySize {
		return Public{}, fmt.Errorf("parse public key: %w", errType)
	}
	k := ed25519.PublicKey(raw)
	return Public{ID: ID(k), Key: k}, nil
}

// ParsePrivate parses a PEM file with one Ed25519 private key.
func ParsePrivate(data []byte) (Private, error) {
	der, err := parsePEM(data, privateType)
	if err != nil {
		return Private{}, fmt.Errorf("parse private key: %w", err)
	}
	seed, ok := bytes.CutPrefix(der, privatePrefix)
	if !ok || len(seed) != ed25519.SeedSize {
		return Private{}, fmt.Errorf("parse private key: %w", errType)
	}
	k := ed25519.NewKeyFromSeed(seed)
	return Private{ID: ID(k.Public().(ed25519.PublicKey)), Key: k}, nil
}

// parsePEM returns the bytes of the one block in data.
func parsePEM(data []byte, want string) ([]byte, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if block.Type != want {
		return nil, fmt.Errorf("PEM block is %q, want %q", block.Type, want)
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("data after the PEM block")
	}
	return block.Bytes, nil
}

// MarshalPublic returns k as the content of a NAME.pub file.
func MarshalPublic(k ed25519.PublicKey) ([]byte, error) {
	if len(k) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("marshal public key: %w", errType)
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicType, Bytes: slices.Concat(publicPrefix, k)}), nil
}

// MarshalPrivate returns k as the content of a NAME.key file.
func MarshalPrivate(k ed25519.PrivateKey) ([]byte, error) {
	if len(k) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("marshal private key: %w", errType)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateType, Bytes: slices.Concat(privatePrefix, k.Seed())}), nil
}

// ValidName reports, as an error, what is wrong with a key's name: it becomes a file name.
func ValidName(name string) error {
	ok := name != "" && len(name) <= 64 && name[0] != '.' && name[0] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if !ok {
		return fmt.Errorf("key name %q: want 1 to 64 of letters, digits, '.', '_' and '-', not beginning with '.' or '-'", name)
	}
	return nil
}

// Generate makes the pair name in the folder dir, which must exist. A file that is already
// there is never replaced: the error is fs.ErrExist.
func Generate(dir, name string) error {
	if err := ValidName(name); err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	privPEM, err := MarshalPrivate(priv)
	if err != nil {
		return err
	}
	pubPEM, err := MarshalPublic(pub)
	if err != nil {
		return err
	}
	pubPath := filepath.Join(dir, name+".pub")
	// The private half is written first; without this a lone .pub would make it a half pair.
	if _, err := os.Lstat(pubPath); err == nil {
		return fmt.Errorf("make key %s: %w", name, &os.PathError{Op: "create", Path: pubPath, Err: os.ErrExist})
	}
	if err := create(filepath.Join(dir, name+".key"), privPEM, 0o600); err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	if err := create(pubPath, pubPEM, 0o644); err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	return nil
}

// create writes a new file and syncs it. It never opens one that exists.
func create(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			// Only what this call has made is removed.
			_ = os.Remove(path)
		}
	}()
	if err := f.Chmod(mode); err != nil { // whatever the umask is
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// LoadPublic reads one NAME.pub file.
func LoadPublic(path string) (Public, error) {
	data, err := readFile(path)
	if err != nil {
		return Public{}, fmt.Errorf("load public key: %w", err)
	}
	p, err := ParsePublic(data)
	if err != nil {
		return Public{}, fmt.Errorf("load %s: %w", path, err)
	}
	p.Name = strings.TrimSuffix(filepath.Base(path), ".pub")
	return p, nil
}

// LoadPrivate reads one NAME.key file.
func LoadPrivate(path string) (Private, error) {
	data, err := readFile(path)
	if err != nil {
		return Private{}, fmt.Errorf("load private key: %w", err)
	}
	p, err := ParsePrivate(data)
	if err != nil {
		return Private{}, fmt.Errorf("load %s: %w", path, err)
	}
	p.Name = strings.TrimSuffix(filepath.Base(path), ".key")
	return p, nil
}

// LoadPublicDir reads all *.pub files of dir, sorted by name. One that does not parse is an
// error: a key that silently is not there would be found out on a device.
func LoadPublicDir(dir string) ([]Public, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load public keys: %w", err)
	}
	var keys []Public
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		k, err := LoadPublic(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Public) int { return strings.Compare(a.Name, b.Name) })
	return keys, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes, not a key file", path, maxFile)
	}
	return data, nil
}
