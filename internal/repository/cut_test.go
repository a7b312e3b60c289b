package repository

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/slotimage"
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
		r, err := Init(t.Context(), Folder(s.dir), s.root)
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

// TestDiskFull lets the disk take no more than a part of a blob: there is an error, devices see the old
// state, nothing is left behind, and once there is room the same call succeeds.
func TestDiskFull(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	s := newSite(t)
	s.publish(s.slot("1"))
	fresh := filepath.Join(t.TempDir(), "image.slot")
	m := slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: "2", BuildID: "b-2", Built: 1}
	if err := makeSlot(fresh, m, 12<<20, s.image); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), Folder(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	before := snapshotDir(t, s.dir)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	full := limit
	full.Cur = 8 << 20 // more than what the test program itself writes
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	_, err = r.Publish(t.Context(), []string{fresh}, s.opts)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EFBIG) || snapshotDir(t, s.dir) != before {
		t.Errorf("Publish to a full disk = %v, want %v and nothing changed", err, unix.EFBIG)
	}
	if got, err := s.look(s.client(s.serve(nil))); got != "1" || err != nil {
		t.Errorf("after it a device sees %q, %v; want 1", got, err)
	}
	s.publish(fresh)
	if got, err := s.look(s.client(s.serve(nil))); got != "1 2" || err != nil {
		t.Errorf("with room again: a device sees %q, %v; want 1 2", got, err)
	}
}
