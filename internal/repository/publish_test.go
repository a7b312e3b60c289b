package repository

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/verity"
)

func noContext() context.Context { return context.Background() }

// edit changes a file in place.
func edit(t *testing.T, name string, change func([]byte) []byte) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, change(b), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPublishRefuses(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign.slot")
	m := slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: "3", BuildID: "b", Built: 1}
	if err := makeSlot(foreign, m, 50_000, stranger); err != nil {
		t.Fatal(err)
	}
	var corrupt *verity.CorruptError
	for _, test := range []struct {
		name string
		file string
		want any
	}{
		{"missing", filepath.Join(t.TempDir(), "none"), fs.ErrNotExist},
		{"folder", t.TempDir(), "not a file"},
		{"garbage", edit(t, s.slot("2"), func([]byte) []byte { return []byte(strings.Repeat("no", 9000)) }), slotimage.ErrEmpty},
		{"unknown key", foreign, slotimage.ErrUnknownKey},
		{"truncated", edit(t, s.slot("2"), func(b []byte) []byte { return b[:len(b)-1] }), slotimage.ErrTooLarge},
		{"longer", edit(t, s.slot("2"), func(b []byte) []byte { return append(b, 0) }), "file has"},
		{"flipped bit", edit(t, s.slot("2"), func(b []byte) []byte { b[200_000] ^= 1; return b }), &corrupt},
		{"manifest changed", edit(t, s.slot("2"), func(b []byte) []byte {
			at := strings.Index(string(b), `"version":"2"`)
			b[at+11] = '9'
			return b
		}), slotimage.ErrBadSignature},
		{"same version, other bytes", s.slot("1", func(m *slotimage.Manifest) { m.BuildID = "other" }), ErrPublished},
		{"version not Debian's", s.slot("v2"), "version"},
	} {
		before := snapshotDir(t, s.dir)
		r, err := Open(t.Context(), Folder(s.dir))
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Publish(t.Context(), []string{s.slot("5"), test.file}, s.opts)
		ok := false
		switch want := test.want.(type) {
		case error:
			ok = errors.Is(err, want)
		case string:
			ok = err != nil && strings.Contains(err.Error(), want)
		default:
			ok = errors.As(err, want)
		}
		if !ok {
			t.Errorf("Publish(%s) = %v, want %v", test.name, err, test.want)
		}
		if after := snapshotDir(t, s.dir); after != before {
			t.Errorf("Publish(%s) changed the repository:\n%s\nwas\n%s", test.name, after, before)
		}
	}
}

// snapshotDir lists the files of dir.
func snapshotDir(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		b.WriteString(p + " " + string(data) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPublishKeys(t *testing.T) {
	s, other := newSite(t), newSite(t)
	file := s.slot("1")
	s.publish(file)
	r, err := Open(t.Context(), Folder(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	opts := s.opts
	opts.Keys = other.opts.Keys
	if _, err := r.Publish(t.Context(), []string{file}, opts); !errors.Is(err, ErrWrongKey) {
		t.Errorf("Publish(keys of another repository) = %v, want %v", err, ErrWrongKey)
	}
	opts.Keys = Keyring{s.key(OnlineKey)}
	if _, err := r.Publish(t.Context(), []string{file}, opts); !errors.Is(err, ErrNoKeys) {
		t.Errorf("Publish(no targets key) = %v, want %v", err, ErrNoKeys)
	}
	if _, err := Init(t.Context(), Folder(s.dir), other.root); !errors.Is(err, ErrWrongKey) {
		t.Errorf("Init(other root) = %v, want %v", err, ErrWrongKey)
	}
	if _, err := LoadKeyring(t.TempDir()); !errors.Is(err, ErrNoKeys) {
		t.Errorf("LoadKeyring(empty folder) = %v, want %v", err, ErrNoKeys)
	}
	if err := WriteRoot(s.keys, start); !errors.Is(err, fs.ErrExist) {
		t.Errorf("WriteRoot again = %v, want %v", err, fs.ErrExist)
	}
	same := t.TempDir()
	if err := key.Generate(same, "root"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(same, RootKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{TargetsKey, OnlineKey} {
		if err := os.WriteFile(filepath.Join(same, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewRoot(same, start); err == nil || !strings.Contains(err.Error(), "same key") {
		t.Errorf("NewRoot(one key for all) = %v, want an error", err)
	}
}

func TestOpen(t *testing.T) {
	s := newSite(t)
	if _, err := Open(t.Context(), Folder(s.dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(nothing) = %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := Open(t.Context(), Folder(s.keys)); !errors.Is(err, ErrNotRepository) {
		t.Errorf("Open(other folder) = %v, want %v", err, ErrNotRepository)
	}
	if _, err := Init(t.Context(), Folder(s.keys), s.root); !errors.Is(err, ErrNotRepository) {
		t.Errorf("Init(other folder) = %v, want %v", err, ErrNotRepository)
	}
	s.publish(s.slot("1"))
	for _, name := range []string{"timestamp.json", "1.snapshot.json", "1.targets.json"} {
		p := filepath.Join(s.dir, "metadata", name)
		good, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		edit(t, p, func(b []byte) []byte { return []byte(strings.Replace(string(b), `"version":1`, `"version":2`, 1)) })
		if _, err := Open(t.Context(), Folder(s.dir)); !errors.Is(err, ErrDamaged) {
			t.Errorf("Open(changed %s) = %v, want %v", name, err, ErrDamaged)
		}
		edit(t, p, func([]byte) []byte { return good })
	}
	if _, err := Open(t.Context(), Folder(s.dir)); err != nil {
		t.Errorf("Open(restored) = %v", err)
	}
}

func TestLock(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	unlock, err := (&folder{dir: s.dir}).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), Folder(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(t.Context(), nil, s.opts); !errors.Is(err, ErrLocked) {
		t.Errorf("Publish(locked) = %v, want %v", err, ErrLocked)
	}
	if _, err := r.Refresh(t.Context(), s.opts); !errors.Is(err, ErrLocked) {
		t.Errorf("Refresh(locked) = %v, want %v", err, ErrLocked)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(t.Context(), nil, s.opts); err != nil {
		t.Errorf("Publish(unlocked) = %v", err)
	}
}

func TestRefresh(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	server := s.serve(nil)
	r, err := Open(t.Context(), Folder(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	online := s.opts
	online.Keys = Keyring{s.key(OnlineKey)}
	const day = 24 * time.Hour

	s.now = start.Add(8 * day)
	if _, _, err := s.client(server).Refresh(t.Context()); !errors.Is(err, ErrExpired) {
		t.Errorf("client after 8 days = %v, want %v", err, ErrExpired)
	}
	p, err := r.Refresh(t.Context(), online)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Floors{Root: 1, Timestamp: 2, Snapshot: 2, Targets: 1}); p.Versions != want {
		t.Errorf("Refresh: versions %+v, want %+v", p.Versions, want)
	}
	if want := s.now.Add(7 * day); !p.Expires.Equal(want) {
		t.Errorf("Refresh: expires %v, want %v", p.Expires, want)
	}
	if _, _, err := s.client(server).Refresh(t.Context()); err != nil {
		t.Errorf("client after refresh = %v", err)
	}

	// The targets are signed anew in time, but only with their key.
	s.now = start.Add(60 * day)
	if p, err = r.Refresh(t.Context(), online); err != nil || p.Versions.Targets != 1 {
		t.Errorf("Refresh without targets key = %+v, %v; want targets version 1", p, err)
	}
	if p, err = r.Refresh(t.Context(), s.opts); err != nil || p.Versions.Targets != 2 {
		t.Errorf("Refresh with targets key = %+v, %v; want targets version 2", p, err)
	}
	s.now = start.Add(200 * day)
	if _, err = r.Refresh(t.Context(), online); !errors.Is(err, ErrNoKeys) {
		t.Errorf("Refresh of expired targets without their key = %v, want %v", err, ErrNoKeys)
	}
}
