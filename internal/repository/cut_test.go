package repository

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPublishCut kills the publisher before every change to the file system
// and looks at the repository as a device does: it must see all of the old
// state or all of the new one. Then the next publisher must get through.
func TestPublishCut(t *testing.T) {
	s := newSite(t)
	old, fresh := s.slot("1"), s.slot("2")
	errCut := errors.New("cut")
	seen := map[string]int{}
	ops := 0
	for cut := 0; ; cut++ {
		s.dir = filepath.Join(t.TempDir(), "repo")
		s.publish(old)
		server := s.serve(nil)
		look := func(when string) string {
			t.Helper()
			versions, err := s.look(s.client(server))
			if err != nil {
				t.Fatalf("cut %d, %s: %v", cut, when, err)
			}
			return versions
		}
		at := 0
		f := &folder{dir: s.dir}
		lastOp := ""
		f.step = func(op string) error {
			at++
			lastOp = op
			if at-1 == cut {
				return errCut
			}
			return nil
		}
		_, err := (&Repository{store: f}).Publish(t.Context(), []string{fresh}, s.opts)
		after := look("after " + lastOp)
		seen[after]++
		if err == nil {
			if after != "1 2" {
				t.Fatalf("after all: versions %q, want 1 2", after)
			}
			ops = at
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut %d (%s): %v, want the cut", cut, lastOp, err)
		}
		if after == "1 2" && lastOp != "sync folder of metadata/timestamp.json" {
			t.Fatalf("cut %d (%s): a device sees the new version already", cut, lastOp)
		}

		s.publish(fresh)
		if got := look("after the next publisher"); got != "1 2" {
			t.Fatalf("cut %d (%s): after the next publisher: versions %q, want 1 2", cut, lastOp, got)
		}
		if left, err := filepath.Glob(filepath.Join(s.dir, "*", "*", "*", "*", tempPrefix+"*")); err != nil || len(left) > 0 {
			t.Fatalf("cut %d (%s): the next publisher left %v, %v", cut, lastOp, left, err)
		}
	}
	if ops < 30 || seen["1"] < 20 || seen["1 2"] < 1 {
		t.Errorf("%d operations, seen %v: the test does not cut what it should", ops, seen)
	}
}

// TestInitCut kills the publisher of a repository's very first image.
func TestInitCut(t *testing.T) {
	s := newSite(t)
	file := s.slot("1")
	errCut := errors.New("cut")
	for cut := 0; ; cut++ {
		s.dir = filepath.Join(t.TempDir(), "repo")
		r, err := Init(t.Context(), s.dir, s.root)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		r.store.(*folder).step = func(string) error {
			at++
			if at-1 == cut {
				return errCut
			}
			return nil
		}
		_, err = r.Publish(t.Context(), []string{file}, s.opts)
		if err == nil {
			break
		}
		versions, lerr := s.look(s.client(s.serve(nil)))
		if lerr != nil && !errors.Is(lerr, ErrUnreachable) || lerr == nil && versions != "1" {
			t.Fatalf("cut %d: a device sees %q, %v; want nothing or version 1", cut, versions, lerr)
		}
		s.publish(file)
		if versions, err := s.look(s.client(s.serve(nil))); versions != "1" {
			t.Fatalf("cut %d: after the next publisher: %q, %v", cut, versions, err)
		}
	}
}

// TestPublishReaders looks at the repository between all operations of a
// publisher that is not killed, with a client that keeps its cache.
func TestPublishReaders(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	fresh := s.slot("2")
	server := s.serve(nil)
	cache := t.TempDir()
	var floors Floors
	f := &folder{dir: s.dir}
	f.step = func(op string) error {
		c := s.client(server)
		c.CacheDir, c.Floors = cache, floors
		versions, err := s.look(c)
		if err != nil || versions != "1" && versions != "1 2" {
			return fmt.Errorf("before %s a device sees %q, %w", op, versions, err)
		}
		_, floors, err = c.Refresh(t.Context())
		return err
	}
	if _, err := (&Repository{store: f}).Publish(t.Context(), []string{fresh}, s.opts); err != nil {
		t.Fatal(err)
	}
}

// look returns the versions a device can have, after it has fetched all that
// belongs to each of them.
func (s *site) look(c *Client) (string, error) {
	ctx := s.t.Context()
	cat, _, err := c.Refresh(ctx)
	if err != nil {
		return "", err
	}
	if p := cat.Problems(); p != nil {
		return "", fmt.Errorf("problems: %v", p)
	}
	var versions []string
	for _, img := range cat.Images("eos", "qemu", "amd64") {
		versions = append(versions, img.Version)
		if _, err := c.OpenIndex(ctx, img); err != nil {
			return "", err
		}
		if _, err := c.Manifest(ctx, img); err != nil {
			return "", err
		}
		f := c.Fetcher(img)
		r, err := f.Fetch(ctx, 0, img.Blob.Length)
		if err != nil {
			return "", err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, r)
		if err = errors.Join(err, r.Close(), f.Close()); err != nil {
			return "", err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != img.Blob.SHA256 {
			return "", fmt.Errorf("blob of %s is %s, want %s", img.Version, got, img.Blob.SHA256)
		}
	}
	return strings.Join(versions, " "), nil
}

// stores is the contract of Store.
func stores(t *testing.T, s Store) {
	read := func(name string) string {
		r, err := s.Open(t.Context(), name)
		if errors.Is(err, os.ErrNotExist) {
			return "<none>"
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put := func(name string, r io.Reader, ok bool) {
		t.Helper()
		if err := s.Put(t.Context(), name, r); (err == nil) != ok {
			t.Errorf("Put(%s) = %v, want ok %v", name, err, ok)
		}
	}
	put("a/b/one", strings.NewReader("1"), true)
	put("a/two", strings.NewReader("2"), true)
	put("c", strings.NewReader("3"), true)
	put("a/two", strings.NewReader("22"), true)
	put("a/two", io.MultiReader(strings.NewReader("333"), failing{}), false)
	put("a/three", failing{}, false)
	for name, want := range map[string]string{"a/b/one": "1", "a/two": "22", "c": "3", "a/three": "<none>", "d/e": "<none>"} {
		if got := read(name); got != want {
			t.Errorf("Open(%s) = %q, want %q", name, got, want)
		}
	}
	for prefix, want := range map[string]string{"a": "a/b/one a/two", "none": ""} {
		files, err := s.List(t.Context(), prefix)
		var names []string
		for _, f := range files {
			names = append(names, f.Name)
			if age := time.Since(f.ModTime); age < -time.Minute || age > time.Minute || f.Size < 1 || f.Size > 2 {
				t.Errorf("List(%s) = %+v, want its size and time", prefix, f)
			}
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("List(%s) = %q, %v; want %q", prefix, got, err, want)
		}
	}
	for _, name := range []string{"a/b/one", "a/b/one", "none"} {
		if err := s.Remove(t.Context(), name); err != nil {
			t.Errorf("Remove(%s) = %v", name, err)
		}
	}
	if got := read("a/b/one") + read("a/two"); got != "<none>22" {
		t.Errorf("after Remove of the first of two: %q", got)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context()); !errors.Is(err, ErrLocked) {
		t.Errorf("second Lock = %v, want %v", err, ErrLocked)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = s.Lock(t.Context()); err != nil {
		t.Fatalf("Lock after unlock = %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFolder(t *testing.T) { stores(t, &folder{dir: t.TempDir()}) }
