package repository

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// MirrorOptions of [Mirror].
type MirrorOptions struct {
	Grace    time.Duration // how long files stay that are no longer listed; zero: [PruneGrace]
	Progress Progress      // may be nil
}

// Mirrored is what [Mirror] did.
type Mirrored struct {
	Versions Floors    `json:"versions"` // of the metadata that the copy has now
	Expires  time.Time `json:"expires"`  // of its timestamp
	Changed  bool      `json:"changed"`
	Files    int       `json:"files"`   // fetched, of images
	Bytes    int64     `json:"bytes"`   // in them
	Removed  int       `json:"removed"` // files that have not been listed for the grace time
}

// Mirror makes store a copy of the repository that c reads: all that is needed to serve it, to
// devices of any age, without a key. What comes is verified like on a device, from c.RootJSON on,
// and never older than what the copy has. Every file is there before the metadata that lists it,
// and timestamp.json is replaced last: a reader sees the old state or the new one, and whatever
// goes wrong, the old one stays. Files that are there are not fetched again.
//
// Errors are those of [Client.Refresh] and of the store.
func Mirror(ctx context.Context, c *Client, store Store, opts MirrorOptions) (*Mirrored, error) {
	if opts.Progress == nil {
		opts.Progress = silent{}
	}
	if opts.Grace == 0 {
		opts.Grace = PruneGrace
	}
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	unlock, err := store.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c.CacheDir = "" // all of the metadata is wanted, as it is sent
	m := &mirror{c: c, store: store, opts: opts}
	if err := m.run(ctx); err != nil {
		return nil, fmt.Errorf("mirror %s: %w", c.BaseURL, err)
	}
	return &m.done, nil
}

// mirror is one run of Mirror.
type mirror struct {
	c     *Client
	store Store
	opts  MirrorOptions
	done  Mirrored
}

func (m *mirror) run(ctx context.Context) error {
	var root []byte // that readers of the copy have now
	have, err := load(ctx, m.store)
	switch {
	case err == nil:
		m.c.Floors, root = have.versions(), have.rootBytes
	case !errors.Is(err, ErrNotRepository) && !errors.Is(err, ErrDamaged):
		return err
	}
	got, err := m.c.fetchMetadata(ctx)
	if err != nil {
		return err
	}
	if err := m.images(ctx, got.targets); err != nil {
		return err
	}
	targets, snapshot := versioned(metadata.TARGETS, got.versions.Targets), versioned(metadata.SNAPSHOT, got.versions.Snapshot)
	for _, name := range []string{targets, snapshot} { // nobody looks at them yet
		if err := m.put(ctx, name, got.files[name]); err != nil {
			return err
		}
	}
	current := func() error { return m.put(ctx, TimestampName, got.files[TimestampName]) }
	roots := func() error { return m.roots(ctx, got) }
	// While keys are exchanged the rest is signed by both, so that it is right under the old root
	// too, and comes first. Later there is no order in which a reader between the two would not
	// have to ask again.
	order := []func() error{roots, current}
	if signedUnder(root, got.files[TimestampName], got.files[snapshot], got.files[targets]) {
		order = []func() error{current, roots}
	}
	for _, write := range order {
		if err := write(); err != nil {
			return err
		}
	}
	return m.finish(ctx)
}

// signedUnder says whether a reader that trusts root takes the rest.
func signedUnder(root, timestamp, snapshot, targets []byte) bool {
	trusted, err := trustedmetadata.New(root)
	if err != nil {
		return false
	}
	trusted.RefTime = time.Time{} // nothing has expired then
	if _, err = trusted.UpdateTimestamp(timestamp); err == nil {
		_, err = trusted.UpdateSnapshot(snapshot, false)
	}
	if err == nil {
		_, err = trusted.UpdateTargets(targets)
	}
	return err == nil
}

// images copies what the metadata lists: all of it, also kinds of files that this program does
// not know.
func (m *mirror) images(ctx context.Context, targets map[string]*metadata.TargetFiles) error {
	files, err := m.store.List(ctx, "targets")
	if err != nil {
		return err
	}
	size := map[string]int64{}
	for _, f := range files {
		size[f.Name] = f.Size
	}
	var missing []File
	var total int64
	for _, p := range slices.Sorted(maps.Keys(targets)) {
		f := File{Path: p, Length: targets[p].Length, SHA256: hex.EncodeToString(targets[p].Hashes["sha256"])}
		if !plainPath(p) || len(f.SHA256) != 64 {
			return &ClientError{Kind: ErrUntrusted, What: "targets.json", Err: fmt.Errorf("it lists %q", p)}
		}
		// A name says what is in it and a put is whole or not there: the length is enough.
		if n, ok := size[f.url()]; !ok || n != f.Length {
			missing = append(missing, f)
			total += f.Length
		}
	}
	m.opts.Progress.Stage("mirror images", total)
	defer m.opts.Progress.Done()
	for _, f := range missing {
		if err := m.image(ctx, f); err != nil {
			return err
		}
		m.done.Files++
		m.done.Bytes += f.Length
	}
	return nil
}

// plainPath says whether a listed path can be a file below targets/ and nothing else.
func plainPath(p string) bool {
	return fs.ValidPath(p) && !slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return !word.MatchString(s) })
}

// image copies one file. It is in its place only if it has the signed hash.
func (m *mirror) image(ctx context.Context, f File) error {
	if f.Length == 0 {
		return m.store.Put(ctx, f.url(), bytes.NewReader(nil))
	}
	blob := &BlobFetcher{c: m.c, blob: f}
	r, err := blob.Fetch(ctx, 0, f.Length)
	if err != nil {
		return err
	}
	wrong := &ClientError{Kind: ErrUntrusted, What: f.Path, Err: errors.New("its SHA-256 is not the signed one")}
	err = m.store.Put(ctx, f.url(), &summed{r: io.TeeReader(r, meter{m.opts.Progress}), want: f, wrong: wrong})
	return errors.Join(err, r.Close(), blob.Close())
}

// roots copies the versions of the root that devices go through: from the one that trust begins
// with to the current one, and what is before it as far as the origin has it.
func (m *mirror) roots(ctx context.Context, got *fetched) error {
	first, err := metadata.Root().FromBytes(m.c.RootJSON)
	if err != nil {
		return &ClientError{Kind: ErrUntrusted, What: "trusted root metadata", Err: tidy{err}}
	}
	got.files[versioned(metadata.ROOT, first.Signed.Version)] = m.c.RootJSON
	next := m.c.RootJSON
	for v := first.Signed.Version - 1; v > 0; v-- {
		b, err := m.older(ctx, v, next)
		if err != nil {
			return err
		}
		if b == nil {
			break
		}
		got.files[versioned(metadata.ROOT, v)], next = b, b
	}
	// The newest last: a reader that finds it finds those before it.
	for v := int64(1); v <= got.versions.Root; v++ {
		name := versioned(metadata.ROOT, v)
		if b := got.files[name]; b != nil {
			if err := m.put(ctx, name, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// older fetches the root before next, which shows by its signatures that it is one. It is nil if
// the origin has none.
func (m *mirror) older(ctx context.Context, version int64, next []byte) ([]byte, error) {
	name := versioned(metadata.ROOT, version)
	b, err := m.c.get(ctx, name, m.c.address(name), maxRoot)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, classify(name, err)
	}
	trusted, err := trustedmetadata.New(b)
	if err == nil {
		_, err = trusted.UpdateRoot(next)
	}
	if err != nil {
		return nil, classify(name, err)
	}
	return b, nil
}

// put writes a metadata file, if the copy has not the same.
func (m *mirror) put(ctx context.Context, name string, b []byte) error {
	have, err := readAll(ctx, m.store, name)
	if err == nil && bytes.Equal(have, b) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrDamaged) { // which says that there is none
		return err
	}
	if err == nil && name != TimestampName {
		// The copy was damaged; what is right has the same name.
		if err := m.store.Remove(ctx, name); err != nil {
			return err
		}
	}
	m.done.Changed = true
	return m.store.Put(ctx, name, bytes.NewReader(b))
}

// finish reads the copy back, as whoever publishes or verifies does, and removes what nobody
// needs any more.
func (m *mirror) finish(ctx context.Context) error {
	st, err := load(ctx, m.store)
	if err != nil {
		return err
	}
	m.done.Versions, m.done.Expires = st.versions(), st.timestamp.Signed.Expires
	now := m.c.Now()
	remove, err := st.garbage(ctx, m.store, now.Add(-m.opts.Grace), &Pruned{})
	if err != nil {
		return err
	}
	for _, f := range remove {
		if err := m.store.Remove(ctx, f.Name); err != nil {
			return err
		}
		m.done.Removed++
	}
	return nil
}
