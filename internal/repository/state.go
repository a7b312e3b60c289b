package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Expiry says how long metadata is good for once signed. Zero fields take the
// defaults.
type Expiry struct {
	Root      time.Duration // default 365 days
	Targets   time.Duration // default 90 days
	Snapshot  time.Duration // default 14 days
	Timestamp time.Duration // default 7 days
}

func (e Expiry) withDefaults() Expiry {
	const day = 24 * time.Hour
	for _, f := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&e.Root, RootLifetime}, {&e.Targets, 90 * day}, {&e.Snapshot, 14 * day}, {&e.Timestamp, 7 * day}} {
		if *f.d == 0 {
			*f.d = f.def
		}
	}
	return e
}

// maxMetadata bounds a metadata file on either side.
const maxMetadata = 16 << 20

// state is the metadata that timestamp.json makes current.
type state struct {
	root      *metadata.Metadata[metadata.RootType]
	rootBytes []byte // its file
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	// used is the highest version of each role for which there is a file,
	// current or left by a killed publisher. No number is used twice: a
	// cache in between may have kept the file.
	used map[string]int64
	// outdated is set if keys that the root no longer names have signed the rest.
	outdated bool
}

// load reads the current metadata and verifies it like a client would, except
// that it may have expired.
func load(ctx context.Context, s Store) (*state, error) {
	st := &state{used: map[string]int64{}}
	files, err := s.List(ctx, "metadata")
	if err != nil {
		return nil, err
	}
	hasTimestamp := false
	for _, f := range files {
		hasTimestamp = hasTimestamp || f.Name == TimestampName
		if version, role := splitVersioned(f.Name); role != "" {
			st.used[role] = max(st.used[role], version)
		}
	}
	if st.used[metadata.ROOT] == 0 {
		return nil, fmt.Errorf("open %s: %w: no root metadata", s, ErrNotRepository)
	}
	if st.root, st.rootBytes, err = readRoot(ctx, s, st.used[metadata.ROOT]); err != nil {
		return nil, err
	}
	if !hasTimestamp {
		st.targets = metadata.Targets()
		st.targets.Signed.Version = 0
		st.snapshot = metadata.Snapshot()
		st.snapshot.Signed.Version = 0
		st.timestamp = metadata.Timestamp()
		st.timestamp.Signed.Version = 0
		return st, nil
	}
	err = st.loadSigned(ctx, s, st.rootBytes)
	if errors.Is(err, ErrDamaged) && st.used[metadata.ROOT] > 1 {
		// A rotation that was cut off between the new root and what its keys sign.
		_, before, e := readRoot(ctx, s, st.used[metadata.ROOT]-1)
		if e == nil && st.loadSigned(ctx, s, before) == nil {
			st.outdated, err = true, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

// readRoot reads a version of the root metadata, which is signed by its own keys.
func readRoot(ctx context.Context, s Store, version int64) (*metadata.Metadata[metadata.RootType], []byte, error) {
	b, err := readAll(ctx, s, versioned(metadata.ROOT, version))
	if err != nil {
		return nil, nil, err
	}
	trusted, err := trustedmetadata.New(b)
	if err != nil {
		return nil, nil, damaged(s, fmt.Sprintf("%d.root.json", version), err)
	}
	return trusted.Root, b, nil
}

// loadSigned reads what the keys of root have signed.
func (st *state) loadSigned(ctx context.Context, s Store, root []byte) error {
	trusted, err := trustedmetadata.New(root)
	if err != nil {
		return damaged(s, "root.json", err)
	}
	trusted.RefTime = time.Time{} // nothing has expired then
	b, err := readAll(ctx, s, TimestampName)
	if err != nil {
		return err
	}
	if st.timestamp, err = trusted.UpdateTimestamp(b); err != nil {
		return damaged(s, "timestamp.json", err)
	}
	meta := st.timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return damaged(s, "timestamp.json", errors.New("no snapshot in it"))
	}
	if b, err = readAll(ctx, s, versioned(metadata.SNAPSHOT, meta.Version)); err != nil {
		return err
	}
	if st.snapshot, err = trusted.UpdateSnapshot(b, false); err != nil {
		return damaged(s, "snapshot.json", err)
	}
	if meta = st.snapshot.Signed.Meta["targets.json"]; meta == nil {
		return damaged(s, "snapshot.json", errors.New("no targets in it"))
	}
	if b, err = readAll(ctx, s, versioned(metadata.TARGETS, meta.Version)); err != nil {
		return err
	}
	if st.targets, err = trusted.UpdateTargets(b); err != nil {
		return damaged(s, "targets.json", err)
	}
	return nil
}

func damaged(s Store, what string, err error) error {
	return fmt.Errorf("open %s: %w: %s: %w", s, ErrDamaged, what, tidy{err})
}

// signing says which keys sign which role.
type signing map[string]Keyring

// signers finds the keys for roles in ring. Too few for one of them is an error.
func (st *state) signers(ring Keyring, roles ...string) (signing, error) {
	by := signing{}
	for _, role := range roles {
		keys, err := ring.need(&st.root.Signed, role)
		if err != nil {
			return nil, err
		}
		by[role] = keys
	}
	return by, nil
}

// write signs what changed and makes it current. The targets are signed anew
// only if by has keys for them.
func (st *state) write(ctx context.Context, s Store, by signing, e Expiry, now time.Time) error {
	e, now = e.withDefaults(), now.UTC().Truncate(time.Second)
	snapshot, timestamp := &st.snapshot.Signed, &st.timestamp.Signed
	if by[metadata.TARGETS] != nil {
		t := &st.targets.Signed
		t.Version = max(t.Version, st.used[metadata.TARGETS]) + 1
		t.Expires = now.Add(e.Targets)
		b, err := sign(st.targets, by[metadata.TARGETS])
		if err != nil {
			return err
		}
		if err := s.Put(ctx, versioned(metadata.TARGETS, t.Version), bytes.NewReader(b)); err != nil {
			return err
		}
		snapshot.Meta["targets.json"] = describe(b, t.Version)
	}
	snapshot.Version = max(snapshot.Version, st.used[metadata.SNAPSHOT]) + 1
	snapshot.Expires = now.Add(e.Snapshot)
	b, err := sign(st.snapshot, by[metadata.SNAPSHOT])
	if err != nil {
		return err
	}
	if err := s.Put(ctx, versioned(metadata.SNAPSHOT, snapshot.Version), bytes.NewReader(b)); err != nil {
		return err
	}
	timestamp.Meta["snapshot.json"] = describe(b, snapshot.Version)
	timestamp.Version++
	timestamp.Expires = now.Add(e.Timestamp)
	if b, err = sign(st.timestamp, by[metadata.TIMESTAMP]); err != nil {
		return err
	}
	return s.Put(ctx, TimestampName, bytes.NewReader(b))
}

func describe(b []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	return &metadata.MetaFiles{
		Version: version, Length: int64(len(b)),
		Hashes: metadata.Hashes{"sha256": sum[:]},
	}
}

// splitVersioned undoes versioned; role is empty if name is something else.
func splitVersioned(name string) (version int64, role string) {
	base, ok := strings.CutPrefix(name, "metadata/")
	number, role, found := strings.Cut(strings.TrimSuffix(base, ".json"), ".")
	version, err := strconv.ParseInt(number, 10, 64)
	if !ok || !found || err != nil || versioned(role, version) != name {
		return 0, ""
	}
	return version, role
}

func versioned(role string, version int64) string {
	return fmt.Sprintf("metadata/%d.%s.json", version, role)
}

func readAll(ctx context.Context, s Store, name string) ([]byte, error) {
	r, err := s.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(s, name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxMetadata+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxMetadata {
		return nil, damaged(s, name, ErrTooLarge)
	}
	return b, nil
}
