package repository

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/key"
)

// A Keyring holds the private keys that are at hand. Which of them may sign what is for the
// repository's root to say, not for their names.
type Keyring []ed25519.PrivateKey

// LoadKeyring reads the private keys in the given folders. Having none is ErrNoKeys.
func LoadKeyring(dirs ...string) (Keyring, error) {
	var ring Keyring
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.key"))
		if err != nil {
			return nil, fmt.Errorf("read keys directory %s: %w", dir, err)
		}
		for _, file := range files {
			k, err := key.LoadPrivate(file)
			if err != nil {
				return nil, err
			}
			ring = append(ring, k.Key)
		}
	}
	if len(ring) == 0 {
		return nil, fmt.Errorf("%w: no private key in %s: %w", ErrNoKeys, strings.Join(dirs, ", "), fs.ErrNotExist)
	}
	return ring, nil
}

// of returns the keys of the ring that root lets sign for role.
func (ring Keyring) of(root *metadata.RootType, role string) Keyring {
	allowed := roleKeys(root, role)
	var keys Keyring
	for _, k := range ring {
		if slices.ContainsFunc(allowed, func(r roleKey) bool { return r.public.Equal(k.Public()) }) &&
			!slices.ContainsFunc(keys, func(have ed25519.PrivateKey) bool { return have.Equal(k) }) {
			keys = append(keys, k)
		}
	}
	return keys
}

// need is like of, with an error if the keys are fewer than role's threshold: ErrWrongKey if
// the ring has nothing to do with this repository at all, else ErrNoKeys.
func (ring Keyring) need(root *metadata.RootType, role string) (Keyring, error) {
	keys, want := ring.of(root, role), 1
	if r := root.Roles[role]; r != nil {
		want = max(want, r.Threshold)
	}
	if len(keys) >= want {
		return keys, nil
	}
	err := fmt.Errorf("sign %s metadata: %d of %d keys at hand, allowed are %s", role, len(keys), want, strings.Join(keyIDs(root, role), ", "))
	if len(ring) > 0 && !slices.ContainsFunc(metadata.TOP_LEVEL_ROLE_NAMES[:], func(r string) bool { return len(ring.of(root, r)) > 0 }) {
		return nil, fmt.Errorf("%w: %w", err, ErrWrongKey)
	}
	return nil, fmt.Errorf("%w: %w", err, ErrNoKeys)
}

// roleKey is a key as root metadata has it.
type roleKey struct {
	id     string // TUF's
	public ed25519.PublicKey
}

// roleKeys returns the Ed25519 keys that root names for role. Keys of other types are left
// out: nobody here can sign with them.
func roleKeys(root *metadata.RootType, role string) []roleKey {
	r := root.Roles[role]
	if r == nil {
		return nil
	}
	var keys []roleKey
	for _, id := range r.KeyIDs {
		k := root.Keys[id]
		if k == nil {
			continue
		}
		if public, err := k.ToPublicKey(); err == nil {
			if public, ok := public.(ed25519.PublicKey); ok {
				keys = append(keys, roleKey{id, public})
			}
		}
	}
	return keys
}

// keyIDs returns the IDs of roleKeys, as package key has them.
func keyIDs(root *metadata.RootType, role string) []string {
	ids := []string{}
	for _, k := range roleKeys(root, role) {
		ids = append(ids, key.ID(k.public))
	}
	return ids
}

// sign signs m with keys, and no others, and returns the file.
func sign[T metadata.Roles](m *metadata.Metadata[T], keys Keyring) ([]byte, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("sign metadata: %w", ErrNoKeys)
	}
	m.ClearSignatures()
	for _, k := range keys {
		signer, err := signature.LoadED25519Signer(k)
		if err != nil {
			return nil, fmt.Errorf("sign metadata: %w", err)
		}
		if _, err := m.Sign(signer); err != nil {
			return nil, fmt.Errorf("sign metadata: %w", err)
		}
	}
	b, err := m.ToBytes(false)
	if err != nil {
		return nil, fmt.Errorf("sign metadata: %w", err)
	}
	return b, nil
}

// errUnknownRole is for a role that [Repository.Rotate] does not have.
var errUnknownRole = errors.New("no such role")
