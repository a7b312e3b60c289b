package repository

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/key"
)

// Roles that keys are given to. RoleOnline is snapshot and timestamp.
const (
	RoleRoot    = "root"
	RoleTargets = "targets"
	RoleOnline  = "online"
)

// A Rotation exchanges the keys of a role.
type Rotation struct {
	Role      string
	Add       []ed25519.PublicKey
	Remove    []string // key IDs, as package key has them
	Threshold int      // signatures wanted from now on; 0: as many as before
}

// A Rotated is what [Repository.Rotate] did.
type Rotated struct {
	*Publication
	RootFile []byte `json:"-"` // the new root metadata
	// Gap is set if the old keys were not at hand to sign along: devices that asked just then
	// got an error, and have to ask again.
	Gap bool `json:"gap"`
}

// tufRoles are the roles in the metadata that a role stands for.
func tufRoles(role string) ([]string, error) {
	switch role {
	case RoleRoot:
		return []string{metadata.ROOT}, nil
	case RoleTargets:
		return []string{metadata.TARGETS}, nil
	case RoleOnline:
		return []string{metadata.SNAPSHOT, metadata.TIMESTAMP}, nil
	}
	return nil, fmt.Errorf("role %q: %w (want root, targets or online)", role, errUnknownRole)
}

// RoleKeys returns the IDs of the keys that may sign for role, and how many of them must.
func (r *Repository) RoleKeys(ctx context.Context, role string) (ids []string, threshold int, err error) {
	roles, err := tufRoles(role)
	if err != nil {
		return nil, 0, err
	}
	st, err := load(ctx, r.store)
	if err != nil {
		return nil, 0, err
	}
	return keyIDs(&st.root.Signed, roles[0]), st.root.Signed.Roles[roles[0]].Threshold, nil
}

// Rotate publishes a root with other keys for a role, and signs anew what these keys sign.
//
// Readers notice nothing: what the new keys sign is in place before the new root, signed by the
// old keys too, so that it is right under either root. Only when the old keys are lost the
// new root comes first. A rotation cut off there is finished by [Repository.Refresh].
func (r *Repository) Rotate(ctx context.Context, rot Rotation, opts PublishOptions) (*Rotated, error) {
	opts = opts.withDefaults()
	roles, err := tufRoles(rot.Role)
	if err != nil {
		return nil, err
	}
	st, unlock, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	next, err := st.nextRoot(rot, roles)
	if err != nil {
		return nil, fmt.Errorf("rotate keys of %s: %w", rot.Role, err)
	}
	rootKeys, err := bothKeys(opts.Keys, &st.root.Signed, next, metadata.ROOT)
	if err != nil {
		return nil, fmt.Errorf("rotate keys of %s: %w", rot.Role, err)
	}
	now, life := opts.Now(), opts.Expiry.withDefaults()
	done := &Rotated{Publication: &Publication{}}
	by := signing{}
	if st.timestamp.Signed.Version > 0 && (rot.Role != RoleRoot || st.outdated) {
		for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
			if role == metadata.TARGETS && rot.Role != RoleTargets && !st.outdated {
				continue // its keys stay, and what they signed is good
			}
			by[role], err = bothKeys(opts.Keys, &st.root.Signed, next, role)
			if errors.Is(err, errOldKeys) {
				done.Gap = true
				by[role], err = opts.Keys.need(next, role)
			}
			if err != nil {
				return nil, fmt.Errorf("rotate keys of %s: %w", rot.Role, err)
			}
		}
	}
	write := []func() error{
		func() error {
			if len(by) == 0 {
				return nil
			}
			return st.write(ctx, r.store, by, opts.Expiry, now)
		},
		func() error { return st.writeRoot(ctx, r.store, next, rootKeys, now.Add(life.Root)) },
	}
	if done.Gap || st.outdated {
		slices.Reverse(write)
	}
	for _, w := range write {
		if err := w(); err != nil {
			return nil, fmt.Errorf("rotate keys of %s: %w", rot.Role, err)
		}
	}
	done.note(st)
	done.RootFile = st.rootBytes
	return done, nil
}

// errOldKeys says that the keys of before the rotation are not at hand.
var errOldKeys = errors.New("the old keys are not at hand")

// bothKeys returns keys of ring that satisfy role under both roots. The next root's must be
// there; if only the old ones' are not, the error is errOldKeys, but for the root itself,
// which nobody would follow without them.
func bothKeys(ring Keyring, old, next *metadata.RootType, role string) (Keyring, error) {
	keys, err := ring.need(next, role)
	if err != nil {
		return nil, err
	}
	before, err := ring.need(old, role)
	if err != nil {
		if role != metadata.ROOT {
			err = fmt.Errorf("%w: %w", errOldKeys, err)
		}
		return nil, err
	}
	for _, k := range before {
		if !slices.ContainsFunc(keys, func(have ed25519.PrivateKey) bool { return have.Equal(k) }) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// nextRoot is the current root after the rotation.
func (st *state) nextRoot(rot Rotation, roles []string) (*metadata.RootType, error) {
	m, err := metadata.Root().FromBytes(st.rootBytes)
	if err != nil {
		return nil, err
	}
	next := &m.Signed
	for _, role := range roles {
		for _, id := range rot.Remove {
			keys := roleKeys(next, role)
			i := slices.IndexFunc(keys, func(k roleKey) bool { return key.ID(k.public) == id })
			if i < 0 {
				return nil, fmt.Errorf("key %s has not this role", id)
			}
			if err := next.RevokeKey(keys[i].id, role); err != nil {
				return nil, err
			}
		}
		for _, public := range rot.Add {
			if owner := ownerOf(next, public, roles); owner != "" {
				return nil, fmt.Errorf("key %s is a key of %s already", key.ID(public), owner)
			}
			k, err := metadata.KeyFromPublicKey(public)
			if err != nil {
				return nil, err
			}
			if err := next.AddKey(k, role); err != nil {
				return nil, err
			}
		}
		if rot.Threshold != 0 {
			next.Roles[role].Threshold = rot.Threshold
		}
		if n, t := len(next.Roles[role].KeyIDs), next.Roles[role].Threshold; t < 1 || n < t {
			return nil, fmt.Errorf("%d signatures would be wanted, of %d keys", t, n)
		}
	}
	return next, nil
}

// ownerOf returns a role, not among except, that public has in root. A key with two roles
// would make one of them worthless.
func ownerOf(root *metadata.RootType, public ed25519.PublicKey, except []string) string {
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if slices.Contains(except, role) {
			continue
		}
		if slices.ContainsFunc(roleKeys(root, role), func(k roleKey) bool { return k.public.Equal(public) }) {
			return role
		}
	}
	return ""
}

// writeRoot signs next as the version after the current root and publishes it.
func (st *state) writeRoot(ctx context.Context, s Store, next *metadata.RootType, keys Keyring, expires time.Time) error {
	m := &metadata.Metadata[metadata.RootType]{Signed: *next}
	m.Signed.Version = st.root.Signed.Version + 1
	m.Signed.Expires = expires.UTC().Truncate(time.Second)
	b, err := sign(m, keys)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, versioned(metadata.ROOT, m.Signed.Version), bytes.NewReader(b)); err != nil {
		return err
	}
	st.root, st.rootBytes = m, b
	return nil
}
