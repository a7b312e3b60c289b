package repository

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	version "github.com/knqyf263/go-deb-version"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/slotimage"
)

// A Repository is a repository as its publisher sees it.
type Repository struct {
	store Store
}

// Init makes a repository in s, whose trust begins with root. What is this
// repository already is opened; a store with anything else in it is refused.
func Init(ctx context.Context, s Store, root []byte) (*Repository, error) {
	m, err := metadata.Root().FromBytes(root)
	if err != nil {
		return nil, fmt.Errorf("make repository %s: root metadata: %w", s, tidy{err})
	}
	if err := m.VerifyDelegate(metadata.ROOT, m); err != nil {
		return nil, fmt.Errorf("make repository %s: root metadata: %w", s, tidy{err})
	}
	if err := s.Init(ctx); err != nil {
		return nil, err
	}
	unlock, err := s.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	files, err := s.List(ctx, "metadata")
	if err != nil {
		return nil, err
	}
	name := versioned(metadata.ROOT, m.Signed.Version)
	if len(files) == 0 {
		if err := s.Put(ctx, name, bytes.NewReader(root)); err != nil {
			return nil, err
		}
		return New(s), nil
	}
	have, err := readAll(ctx, s, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Equal(have, root) {
		return nil, fmt.Errorf("make repository %s: %w: it has another root", s, ErrWrongKey)
	}
	if err != nil {
		return nil, err
	}
	return New(s), nil
}

// New is like [Open] for a repository that may be damaged: the first call that needs its
// metadata says so.
func New(s Store) *Repository { return &Repository{store: s} }

// Open opens the repository in s. What is none is ErrNotRepository, and
// fs.ErrNotExist if there is nothing at all.
func Open(ctx context.Context, s Store) (*Repository, error) {
	if f, ok := s.(*folder); ok {
		if _, err := os.Stat(f.dir); err != nil {
			return nil, fmt.Errorf("open repository: %w", err)
		}
	}
	if _, err := load(ctx, s); err != nil {
		return nil, err
	}
	return New(s), nil
}

// Progress is told how far a long call has come; [cli.Progress] is one.
type Progress interface {
	Stage(name string, total int64)
	Add(n int64)
	Done()
}

// PublishOptions of [Repository.Publish] and [Repository.Refresh].
type PublishOptions struct {
	Keys     Keyring             // of the repository
	Accepted []ed25519.PublicKey // keys of slot manifests
	Channel  string              // of what is published; empty: Stable
	Expiry   Expiry
	Now      func() time.Time // nil: the system's clock
	Progress Progress         // may be nil
}

// A Published is one image of a [Publication].
type Published struct {
	Image
	File      string `json:"file"`
	Chunks    int    `json:"chunks"`
	Unchanged bool   `json:"unchanged"` // it was there already
}

// A Publication is what a publisher did.
type Publication struct {
	Images  []Published `json:"images"`
	Expires time.Time   `json:"expires"` // of the timestamp: publish or refresh again before
	Root    time.Time   `json:"root_expires"`
	Targets time.Time   `json:"targets_expires"`
	// Versions of the metadata after it.
	Versions Floors `json:"versions"`
}

// begin keeps other publishers away until unlock, and reads the metadata.
func (r *Repository) begin(ctx context.Context) (st *state, unlock func() error, err error) {
	unlock, err = r.store.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	if st, err = load(ctx, r.store); err != nil {
		return nil, nil, errors.Join(err, unlock())
	}
	return st, unlock, nil
}

// Publish adds the slot images in files. Each is verified completely first. If
// one cannot be published, none is. A version that is there already with the
// same content stays as it is; with other content it is ErrPublished.
func (r *Repository) Publish(ctx context.Context, files []string, opts PublishOptions) (*Publication, error) {
	opts = opts.withDefaults()
	if err := checkChannel(opts.Channel); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	st, unlock, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	by, err := st.signers(opts.Keys, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	var prepared []*prepared
	for _, file := range files {
		p, err := prepare(ctx, file, opts)
		if err != nil {
			return nil, fmt.Errorf("publish %s: %w", file, err)
		}
		defer p.file.Close()
		if err := p.compare(st); err != nil {
			return nil, fmt.Errorf("publish %s: %w", file, err)
		}
		prepared = append(prepared, p)
		if err := p.enter(st); err != nil {
			return nil, fmt.Errorf("publish %s: %w", file, err)
		}
	}
	changed := st.timestamp.Signed.Version == 0 || st.outdated
	pub := &Publication{}
	for _, p := range prepared {
		pub.Images = append(pub.Images, Published{Image: p.image, File: p.name, Chunks: p.chunks, Unchanged: p.unchanged})
		changed = changed || !p.unchanged
		// Files of an image that is there already are looked at too, and mended.
		if err := p.put(ctx, r.store, opts.Progress); err != nil {
			return nil, fmt.Errorf("publish %s: %w", p.name, err)
		}
	}
	if changed {
		if err := st.write(ctx, r.store, by, opts.Expiry, opts.Now()); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
	}
	pub.note(st)
	return pub, nil
}

// Catalog returns what the repository offers.
func (r *Repository) Catalog(ctx context.Context) (*Catalog, error) {
	st, err := load(ctx, r.store)
	if err != nil {
		return nil, err
	}
	return newCatalog(st.targets.Signed.Targets), nil
}

// Status returns how the metadata stands, as a Publication without images. Times of what has not been
// published yet are zero.
func (r *Repository) Status(ctx context.Context) (*Publication, error) {
	st, err := load(ctx, r.store)
	if err != nil {
		return nil, err
	}
	pub := &Publication{Images: []Published{}}
	pub.note(st)
	if pub.Versions.Timestamp == 0 {
		pub.Expires, pub.Targets = time.Time{}, time.Time{}
	}
	return pub, nil
}

func (o PublishOptions) withDefaults() PublishOptions {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Channel == "" {
		o.Channel = Stable
	}
	return o
}

type silent struct{}

func (silent) Stage(string, int64) {}
func (silent) Add(int64)           {}
func (silent) Done()               {}

func (p *Publication) note(st *state) {
	p.Expires = st.timestamp.Signed.Expires
	p.Root, p.Targets = st.root.Signed.Expires, st.targets.Signed.Expires
	p.Versions = st.versions()
}

func (st *state) versions() Floors {
	return Floors{
		Root: st.root.Signed.Version, Timestamp: st.timestamp.Signed.Version,
		Snapshot: st.snapshot.Signed.Version, Targets: st.targets.Signed.Version,
	}
}

// prepared is a verified image on its way into the repository.
type prepared struct {
	name            string
	file            *os.File
	image           Image
	manifest, index []byte
	chunks          int
	unchanged       bool
}

// prepare verifies the image in the file called name and computes what is
// published of it.
func prepare(ctx context.Context, name string, opts PublishOptions) (_ *prepared, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	m, err := slotimage.Read(f, info.Size(), opts.Accepted)
	if err != nil {
		return nil, err
	}
	if info.Size() != m.ImageSize {
		return nil, fmt.Errorf("file has %d bytes, the slot image in it %d", info.Size(), m.ImageSize)
	}
	if _, err := version.NewVersion(m.Version); err != nil {
		return nil, fmt.Errorf("version %q: %w", m.Version, err)
	}
	what := m.Name + " " + m.Version
	opts.Progress.Stage("verify "+what, m.DataSize)
	if err := slotimage.Verify(ctx, f, m, opts.Progress.Add); err != nil {
		return nil, err
	}
	size := m.DataSize + slotimage.BlockSize
	opts.Progress.Stage("cut "+what+" into chunks", size)
	sum := sha256.New()
	blob := io.TeeReader(io.NewSectionReader(f, 0, size), io.MultiWriter(sum, meter{opts.Progress}))
	x, err := chunk.Make(ctx, blob, m.DataSize)
	if err != nil {
		return nil, err
	}
	opts.Progress.Done()
	p := &prepared{name: name, file: f, manifest: make([]byte, slotimage.BlockSize), index: x.Marshal(), chunks: len(x.Chunks)}
	if _, err := f.ReadAt(p.manifest, m.DataSize); err != nil {
		return nil, err
	}
	file := func(base string, length int64, sum []byte) File {
		return File{Path: targetPath(m.Name, m.Class, m.Version, base), Length: length, SHA256: hex.EncodeToString(sum)}
	}
	manifestSum, indexSum := sha256.Sum256(p.manifest), sha256.Sum256(p.index)
	p.image = Image{
		Name: m.Name, Class: m.Class, Arch: m.Arch, Version: m.Version, BuildID: m.BuildID,
		Channel: opts.Channel, DataSize: m.DataSize, ImageSize: m.ImageSize, MinSlotSize: m.ImageSize, Built: m.Built,
		Manifest: file("manifest", int64(len(p.manifest)), manifestSum[:]),
		Index:    file("index", int64(len(p.index)), indexSum[:]),
		Blob:     file("blob", size, sum.Sum(nil)),
	}
	return p, nil
}

// compare looks for the same version in the repository.
func (p *prepared) compare(st *state) error {
	t := st.targets.Signed.Targets[p.image.Blob.Path]
	if t == nil {
		return nil
	}
	if hex.EncodeToString(t.Hashes["sha256"]) != p.image.Blob.SHA256 {
		return fmt.Errorf("%s %s for %s: %w", p.image.Name, p.image.Version, p.image.Class, ErrPublished)
	}
	p.unchanged = true
	// It stays in the channel it is in.
	i := p.image
	if have, ok := newCatalog(st.targets.Signed.Targets).Find(i.Name, i.Class, i.Arch, i.Version); ok {
		p.image.Channel = have.Channel
	}
	return nil
}

// enter puts the image into the targets metadata.
func (p *prepared) enter(st *state) error {
	if p.unchanged {
		return nil
	}
	i := p.image
	for _, f := range []File{i.Manifest, i.Index, i.Blob} {
		sum, err := hex.DecodeString(f.SHA256)
		if err != nil {
			return err
		}
		st.targets.Signed.Targets[f.Path] = &metadata.TargetFiles{Length: f.Length, Hashes: metadata.Hashes{"sha256": sum}, Path: f.Path}
	}
	return st.describe(i)
}

// describe makes i's entry in the targets metadata say what i says.
func (st *state) describe(i Image) error {
	custom, err := json.Marshal(entry{
		Format: entryFormat, Name: i.Name, Class: i.Class, Arch: i.Arch, Version: i.Version, BuildID: i.BuildID,
		Channel: i.Channel, DataSize: i.DataSize, ImageSize: i.ImageSize, MinSlotSize: i.MinSlotSize, Built: i.Built,
		Index: i.Index.Path, Blob: i.Blob.Path,
	})
	if err != nil {
		return err
	}
	raw := json.RawMessage(custom)
	st.targets.Signed.Targets[i.Manifest.Path].Custom = &raw
	// What devices would make of it: an entry they cannot read must not be
	// signed.
	c := newCatalog(st.targets.Signed.Targets)
	if got, ok := c.Find(i.Name, i.Class, i.Arch, i.Version); !ok || got != i {
		return fmt.Errorf("entry does not read back: %s", strings.Join(c.Problems(), "; "))
	}
	return nil
}

// put copies the image's files to the store.
func (p *prepared) put(ctx context.Context, s Store, progress Progress) error {
	progress.Stage("copy "+p.image.Name+" "+p.image.Version, p.image.Blob.Length)
	defer progress.Done()
	for _, f := range []struct {
		file File
		r    io.Reader
	}{
		{p.image.Blob, io.TeeReader(io.NewSectionReader(p.file, 0, p.image.Blob.Length), meter{progress})},
		{p.image.Index, bytes.NewReader(p.index)},
		{p.image.Manifest, bytes.NewReader(p.manifest)},
	} {
		same, err := holds(ctx, s, f.file)
		if same {
			continue // published already, or left by a publisher that was killed
		}
		if errors.Is(err, errOther) {
			err = s.Remove(ctx, f.file.url()) // damaged
		}
		if err != nil {
			return err
		}
		if err := s.Put(ctx, f.file.url(), &summed{r: f.r, want: f.file, wrong: fmt.Errorf("%s changed while it was published", f.file.Path)}); err != nil {
			return err
		}
	}
	return nil
}

// errOther says that a file has not the content of its name.
var errOther = errors.New("other content")

// holds says whether the store has f already, whole. If it has something else in its place the
// error is errOther.
func holds(ctx context.Context, s Store, f File) (bool, error) {
	r, err := s.Open(ctx, f.url())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, readerContext{ctx, r})
	if err = errors.Join(err, r.Close()); err != nil {
		return false, err
	}
	if n != f.Length || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return false, errOther
	}
	return true, nil
}

// summed fails at its end, with the error wrong, if what was read is not what
// was announced.
type summed struct {
	r     io.Reader
	want  File
	wrong error
	n     int64
	hash  hash.Hash // nil before the first Read
}

func (s *summed) Read(b []byte) (int, error) {
	if s.hash == nil {
		s.hash = sha256.New()
	}
	n, err := s.r.Read(b)
	s.n += int64(n)
	s.hash.Write(b[:n])
	if err == io.EOF && (s.n != s.want.Length || hex.EncodeToString(s.hash.Sum(nil)) != s.want.SHA256) {
		return n, s.wrong
	}
	return n, err
}

// meter reports what is written to it.
type meter struct{ p Progress }

func (m meter) Write(b []byte) (int, error) {
	m.p.Add(int64(len(b)))
	return len(b), nil
}
