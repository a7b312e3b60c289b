package repository

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/key"
)

// Names of the signing keys in the keys folder, and of the root metadata.
const (
	RootKey    = "root.key"    // signs root metadata; kept offline
	TargetsKey = "targets.key" // signs the list of images; kept offline
	OnlineKey  = "online.key"  // signs snapshot and timestamp; on the publishing machine
	RootFile   = "root.json"   // the first root metadata, which goes into every image
)

// RootLifetime is how long root metadata is good for by default.
const RootLifetime = 365 * 24 * time.Hour

// NewRoot makes the first root metadata for the keys in keysDir, signed with
// the root key. The keys of a repository are told apart only by what the root
// says of them, so no key may have two roles except the online one.
func NewRoot(keysDir string, expires time.Time) ([]byte, error) {
	rootKey, err := loadKey(keysDir, RootKey)
	if err != nil {
		return nil, err
	}
	targets, err := loadKey(keysDir, TargetsKey)
	if err != nil {
		return nil, err
	}
	online, err := loadKey(keysDir, OnlineKey)
	if err != nil {
		return nil, err
	}
	if rootKey.Equal(targets) || rootKey.Equal(online) || targets.Equal(online) {
		return nil, fmt.Errorf("make root metadata: two of %s, %s and %s are the same key", RootKey, TargetsKey, OnlineKey)
	}
	root := metadata.Root(expires.UTC().Truncate(time.Second))
	for _, r := range []struct {
		role string
		key  ed25519.PrivateKey
	}{
		{metadata.ROOT, rootKey}, {metadata.TARGETS, targets},
		{metadata.SNAPSHOT, online}, {metadata.TIMESTAMP, online},
	} {
		k, err := metadata.KeyFromPublicKey(r.key.Public())
		if err != nil {
			return nil, fmt.Errorf("make root metadata: %w", err)
		}
		if err := root.Signed.AddKey(k, r.role); err != nil {
			return nil, fmt.Errorf("make root metadata: %w", err)
		}
	}
	return sign(root, []ed25519.PrivateKey{rootKey})
}

func loadKey(dir, name string) (ed25519.PrivateKey, error) {
	k, err := key.LoadPrivate(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	if err != nil {
		return nil, err
	}
	return k.Key, nil
}

// WriteRoot makes the first root metadata and writes it to keysDir. It never
// replaces a file: the error is then fs.ErrExist.
func WriteRoot(keysDir string, expires time.Time) error {
	b, err := NewRoot(keysDir, expires)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(keysDir, RootFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write root metadata: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write root metadata: %w", err)
	}
	return nil
}

// LoadRoot reads the first root metadata from keysDir.
func LoadRoot(keysDir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(keysDir, RootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read root metadata: %w", err)
	}
	return b, nil
}
