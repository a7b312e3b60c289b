package repository

import (
	"bytes"
	"context"
	"crypto/ed25519"
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
	Targets   time.Duration // default 90 days
	Snapshot  time.Duration // default 14 days
	Timestamp time.Duration // default 7 days
}

func (e Expiry) withDefaults() Expiry {
	const day = 24 * time.Hour
	for _, f := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&e.Targets, 90 * day}, {&e.Snapshot, 14 * day}, {&e.Timestamp, 7 * day}} {
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
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	// used is the highest version of each role for which there is a file,
	// current or left by a killed publisher. No number is used twice: a
	// cache in between may have kept the file.
	used map[string]int64
}

// load reads the current metadata and verifies it like a client would, except
// that it may have expired.
func load(ctx context.Context, s Store) (*state, error) {
	st := &state{used: map[string]int64{}}
	names, err := s.List(ctx, "metadata")
	if err != nil {
		return nil, err
	}
	hasTimestamp := false
	for _, name := range names {
		base := strings.TrimPrefix(name, "metadata/")
		hasTimestamp = hasTimestamp || base == "timestamp.json"
		number, role, _ := strings.Cut(strings.TrimSuffix(base, ".json"), ".")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			st.used[role] = max(st.used[role], v)
		}
	}
	if st.used[metadata.ROOT] == 0 {
		return nil, fmt.Errorf("open %s: %w: no root metadata", s, ErrNotRepository)
	}
	b, err := readAll(ctx, s, versioned(metadata.ROOT, st.used[metadata.ROOT]))
	if err != nil {
		return nil, err
	}
	trusted, err := trustedmetadata.New(b)
	if err != nil {
		return nil, damaged(s, "root.json", err)
	}
	trusted.RefTime = time.Time{} // nothing has expired then
	st.root = trusted.Root
	if !hasTimestamp {
		st.targets = metadata.Targets()
		st.targets.Signed.Version = 0
		st.snapshot = metadata.Snapshot()
		st.snapshot.Signed.Version = 0
		st.timestamp = metadata.Timestamp()
		st.timestamp.Signed.Version = 0
		return st, nil
	}
	if b, err = readAll(ctx, s, "metadata/timestamp.json"); err != nil {
		return nil, err
	}
	if st.timestamp, err = trusted.UpdateTimestamp(b); err != nil {
		return nil, damaged(s, "timestamp.json", err)
	}
	meta := st.timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return nil, damaged(s, "timestamp.json", errors.New("no snapshot in it"))
	}
	if b, err = readAll(ctx, s, versioned(metadata.SNAPSHOT, meta.Version)); err != nil {
		return nil, err
	}
	if st.snapshot, err = trusted.UpdateSnapshot(b, false); err != nil {
		return nil, damaged(s, "snapshot.json", err)
	}
	if meta = st.snapshot.Signed.Meta["targets.json"]; meta == nil {
		return nil, damaged(s, "snapshot.json", errors.New("no targets in it"))
	}
	if b, err = readAll(ctx, s, versioned(metadata.TARGETS, meta.Version)); err != nil {
		return nil, err
	}
	if st.targets, err = trusted.UpdateTargets(b); err != nil {
		return nil, damaged(s, "targets.json", err)
	}
	return st, nil
}

func damaged(s Store, what string, err error) error {
	return fmt.Errorf("open %s: %w: %s: %w", s, ErrDamaged, what, tidy{err})
}

// check says whether the keys may sign what they are meant to.
func (st *state) check(keys Signers) error {
	for _, r := range []struct {
		role, file string
		key        ed25519.PrivateKey
	}{
		{metadata.TARGETS, TargetsKey, keys.Targets},
		{metadata.SNAPSHOT, OnlineKey, keys.Online}, {metadata.TIMESTAMP, OnlineKey, keys.Online},
	} {
		if r.key == nil {
			continue
		}
		ok, err := hasRole(&st.root.Signed, r.role, r.key)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("sign %s metadata with %s: %w", r.role, r.file, ErrWrongKey)
		}
		if n := st.root.Signed.Roles[r.role].Threshold; n > 1 {
			return fmt.Errorf("sign %s metadata: the root asks for %d signatures, one key is at hand", r.role, n)
		}
	}
	return nil
}

// write signs what changed and makes it current. The targets are signed anew
// only if newTargets is set.
func (st *state) write(ctx context.Context, s Store, keys Signers, e Expiry, now time.Time, newTargets bool) error {
	e, now = e.withDefaults(), now.UTC().Truncate(time.Second)
	snapshot, timestamp := &st.snapshot.Signed, &st.timestamp.Signed
	if newTargets {
		t := &st.targets.Signed
		t.Version = max(t.Version, st.used[metadata.TARGETS]) + 1
		t.Expires = now.Add(e.Targets)
		b, err := sign(st.targets, keys.Targets)
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
	b, err := sign(st.snapshot, keys.Online)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, versioned(metadata.SNAPSHOT, snapshot.Version), bytes.NewReader(b)); err != nil {
		return err
	}
	timestamp.Meta["snapshot.json"] = describe(b, snapshot.Version)
	timestamp.Version++
	timestamp.Expires = now.Add(e.Timestamp)
	if b, err = sign(st.timestamp, keys.Online); err != nil {
		return err
	}
	return s.Put(ctx, "metadata/timestamp.json", bytes.NewReader(b))
}

func describe(b []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	return &metadata.MetaFiles{
		Version: version, Length: int64(len(b)),
		Hashes: metadata.Hashes{"sha256": sum[:]},
	}
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
