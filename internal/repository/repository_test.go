package repository

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slotimage"
)

// start is the clock of the tests.
var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// site is a publisher with its keys and repository, and a server over it.
type site struct {
	t         *testing.T
	keys, dir string
	image     ed25519.PrivateKey
	root      []byte
	opts      PublishOptions
	now       time.Time
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, keys: t.TempDir(), dir: filepath.Join(t.TempDir(), "repo"), now: start}
	for _, name := range []string{"image", "root", "targets", "online"} {
		if err := key.Generate(s.keys, name); err != nil {
			t.Fatal(err)
		}
	}
	k, err := key.LoadPrivate(filepath.Join(s.keys, "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.image = k.Key
	if err := WriteRoot(s.keys, start.Add(RootLifetime)); err != nil {
		t.Fatal(err)
	}
	if s.root, err = LoadRoot(s.keys); err != nil {
		t.Fatal(err)
	}
	ring, err := LoadKeyring(s.keys)
	if err != nil {
		t.Fatal(err)
	}
	s.opts = PublishOptions{
		Keys: ring, Accepted: []ed25519.PublicKey{k.Public().Key},
		Now: func() time.Time { return s.now },
	}
	return s
}

// key returns a private key by the name of its file.
func (s *site) key(file string) ed25519.PrivateKey {
	s.t.Helper()
	k, err := loadKey(s.keys, file)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// slot makes a slot image file.
func (s *site) slot(version string, change ...func(*slotimage.Manifest)) string {
	s.t.Helper()
	m := slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: version, BuildID: "b-" + version, Built: 1}
	for _, f := range change {
		f(&m)
	}
	name := filepath.Join(s.t.TempDir(), "image.slot")
	if err := makeSlot(name, m, 300_000, s.image); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// makeSlot writes a slot image around bytes that look like a squashfs to who
// reads its superblock.
func makeSlot(name string, m slotimage.Manifest, size int, keys ...ed25519.PrivateKey) error {
	sum := sha256.Sum256([]byte(m.Version + m.BuildID))
	data := chunktest.Data(binary.LittleEndian.Uint64(sum[:]), size)
	clear(data[:96])
	copy(data, "hsqs")
	le := binary.LittleEndian
	le.PutUint32(data[12:], 131072)
	le.PutUint16(data[20:], 1)
	le.PutUint16(data[22:], 17)
	le.PutUint16(data[28:], 4)
	le.PutUint64(data[40:], uint64(size))
	for at := 48; at < 96; at += 8 {
		le.PutUint64(data[at:], ^uint64(0))
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m.Salt[0] = 1
	_, err = slotimage.Assemble(noContext(), f, int64(size), m, keys...)
	return err
}

// publish publishes slot images and must succeed.
func (s *site) publish(files ...string) *Publication {
	s.t.Helper()
	r, err := Init(s.t.Context(), Folder(s.dir), s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := r.Publish(s.t.Context(), files, s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// serve serves the repository through wrap, if given.
func (s *site) serve(wrap func(http.Handler) http.Handler) *httptest.Server {
	var h http.Handler = http.FileServer(http.Dir(s.dir))
	if wrap != nil {
		h = wrap(h)
	}
	server := httptest.NewServer(h)
	s.t.Cleanup(server.Close)
	return server
}

// client returns a client that does not wait long.
func (s *site) client(server *httptest.Server) *Client {
	return &Client{
		BaseURL: server.URL, HTTP: server.Client(), RootJSON: s.root, CacheDir: s.t.TempDir(),
		Now: func() time.Time { return s.now }, Retries: 2, Wait: time.Millisecond, Stall: 2 * time.Second,
	}
}

func TestPublishAndRead(t *testing.T) {
	s := newSite(t)
	one, two := s.slot("1.9"), s.slot("1.10")
	p := s.publish(one)
	if len(p.Images) != 1 || p.Images[0].Unchanged || p.Images[0].Chunks < 2 {
		t.Fatalf("Publish = %+v, want one new image", p)
	}
	s.publish(two)
	server := s.serve(nil)
	c := s.client(server)
	cat, floors, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Floors{Root: 1, Timestamp: 2, Snapshot: 2, Targets: 2}); floors != want {
		t.Errorf("Floors = %+v, want %+v", floors, want)
	}
	if got := cat.Problems(); got != nil {
		t.Errorf("Problems() = %v, want none", got)
	}
	img, ok := cat.Latest("eos", "qemu", "amd64", Stable)
	if !ok || img.Version != "1.10" || img.BuildID != "b-1.10" {
		t.Fatalf("Latest = %+v, %v; want 1.10", img, ok)
	}
	for _, q := range [][3]string{{"eos", "qemu", "arm64"}, {"eos", "rpi", "amd64"}, {"other", "qemu", "amd64"}} {
		if img, ok := cat.Latest(q[0], q[1], q[2], Stable); ok {
			t.Errorf("Latest(%v) = %s, want none", q, img.Version)
		}
	}
	if _, ok := cat.Find("eos", "qemu", "amd64", "1.9"); !ok {
		t.Error("Find(1.9) found nothing")
	}
	if got := c.Traffic(); got.Requests != 4 {
		t.Errorf("first Refresh took %d requests, want 4", got.Requests)
	}

	// What is published is the image without its hash tree.
	whole, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	want := whole[:img.DataSize+slotimage.BlockSize]
	x, err := c.OpenIndex(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if last := x.Chunks[len(x.Chunks)-1]; last.Offset != img.DataSize || last.Size != slotimage.BlockSize {
		t.Errorf("last chunk is %d+%d, want the manifest block at %d", last.Offset, last.Size, img.DataSize)
	}
	block, err := c.Manifest(t.Context(), img)
	if err != nil || !bytes.Equal(block, want[img.DataSize:]) {
		t.Errorf("Manifest = %d bytes, %v; want the manifest block", len(block), err)
	}
	f := c.Fetcher(img)
	r, err := f.Fetch(t.Context(), 0, img.Blob.Length)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("blob = %d bytes, %v; want the image up to its hash tree", len(got), err)
	}
	if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != img.Blob.SHA256 {
		t.Error("blob's SHA-256 is not the signed one")
	}

	// A second check with nothing new asks for the next root and the
	// timestamp only.
	c2 := s.client(server)
	c2.CacheDir = c.CacheDir
	if _, _, err := c2.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c2.Traffic(); got.Requests != 2 {
		t.Errorf("second Refresh took %d requests, want 2", got.Requests)
	}
}

func TestPublishAgain(t *testing.T) {
	s := newSite(t)
	file := s.slot("1")
	first := s.publish(file)
	again := s.publish(file, file)
	if len(again.Images) != 2 || !again.Images[0].Unchanged || !again.Images[1].Unchanged || again.Versions != first.Versions {
		t.Errorf("publishing the same again = %+v, want all unchanged at versions %+v", again, first.Versions)
	}
	twice := s.slot("2")
	p := s.publish(twice, twice)
	if p.Images[0].Unchanged || !p.Images[1].Unchanged {
		t.Errorf("publishing one file twice at once = %+v, want new, unchanged", p.Images)
	}
}
