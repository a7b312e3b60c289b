package repository

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyOf is a mirror of a site's repository: the same publisher, another folder.
func (s *site) copyOf() *site {
	m := *s
	m.dir = filepath.Join(s.t.TempDir(), "mirror")
	return &m
}

func (s *site) mirrorTo(m *site, server *httptest.Server) (*Mirrored, error) {
	return Mirror(s.t.Context(), s.client(server), Folder(m.dir), MirrorOptions{})
}

// TestMirror follows a publisher through new images, exchanged keys, and pruning. Devices read
// from the copy what they could read from the origin.
func TestMirror(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	m, origin := s.copyOf(), s.serve(nil)
	devices := m.serve(nil)
	step := func(want string, files int) *Mirrored {
		t.Helper()
		done, err := s.mirrorTo(m, origin)
		if err != nil {
			t.Fatal(err)
		}
		if done.Files != files || done.Changed != (files >= 0) && files != 0 {
			t.Errorf("Mirror = %+v, want %d files", done, files)
		}
		if got, err := s.look(s.client(devices)); got != want || err != nil {
			t.Errorf("a device at the mirror sees %q, %v; want %q", got, err, want)
		}
		return done
	}
	if done := step("1", 3); done.Versions.Timestamp != 1 || !done.Expires.After(s.now) {
		t.Errorf("Mirror = %+v", done)
	}
	if done := step("1", 0); done.Changed {
		t.Errorf("Mirror of the same again = %+v, want nothing changed", done)
	}
	s.publish(s.slot("2"))
	step("1 2", 3)

	// A key is exchanged; the origin's next state is signed by the new one alone.
	r := &Repository{store: Folder(s.dir)}
	if _, err := r.Rotate(t.Context(), s.exchangeOf(RoleOnline), s.opts); err != nil {
		t.Fatal(err)
	}
	step("1 2", 0)
	s.opts.Keys = s.opts.Keys.without(s.key("online.key"))
	if _, err := r.Refresh(t.Context(), s.opts); err != nil {
		t.Fatal(err)
	}
	step("1 2", 0)

	// What the origin lists no more goes after the grace time, not before.
	s.now = s.now.Add(time.Hour)
	if _, err := r.Prune(t.Context(), PruneOptions{PublishOptions: s.opts, Keep: 1}); err != nil {
		t.Fatal(err)
	}
	if done := step("2", 0); done.Removed != 0 {
		t.Errorf("Mirror removed %d files at once", done.Removed)
	}
	// The clock of the test is not the one of its files: let the grace time have ended whatever that says.
	done, err := Mirror(t.Context(), s.client(origin), Folder(m.dir), MirrorOptions{Grace: -10 * 365 * 24 * time.Hour})
	if err != nil || done.Removed < 3 {
		t.Errorf("Mirror after the grace time = %+v, %v; want the files of version 1 gone", done, err)
	}
	step("2", 0)
}

// TestMirrorOldRoots has a mirror that was set up with a newer root than some devices have.
func TestMirrorOldRoots(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	r := &Repository{store: Folder(s.dir)}
	if _, err := r.Rotate(t.Context(), s.exchangeOf(RoleOnline), s.opts); err != nil {
		t.Fatal(err)
	}
	m, origin := s.copyOf(), s.serve(nil)
	c := s.client(origin)
	var err error
	if c.RootJSON, err = os.ReadFile(filepath.Join(s.dir, "metadata/2.root.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Mirror(t.Context(), c, Folder(m.dir), MirrorOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.look(s.client(m.serve(nil))); got != "1" || err != nil {
		t.Errorf("a device with the first root sees %q, %v", got, err)
	}
}

// TestMirrorCut kills a mirror before every change to the file system, while the origin has a new
// image and new keys. Devices see the old state or the new one; the next run finishes.
func TestMirrorCut(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	origin := s.serve(nil)
	first := s.copyOf()
	if _, err := s.mirrorTo(first, origin); err != nil {
		t.Fatal(err)
	}
	s.publish(s.slot("2"))
	if _, err := (&Repository{store: Folder(s.dir)}).Rotate(t.Context(), s.exchangeOf(RoleOnline), s.opts); err != nil {
		t.Fatal(err)
	}
	errCut := errors.New("cut")
	seen := map[string]int{}
	for cut, done := 0, false; !done; cut++ {
		m := s.copyOf()
		if err := os.CopyFS(m.dir, os.DirFS(first.dir)); err != nil {
			t.Fatal(err)
		}
		devices, op := m.serve(nil), ""
		look := func(when string) string {
			t.Helper()
			got, err := s.look(s.client(devices))
			if err != nil || got != "1" && got != "1 2" {
				t.Fatalf("cut %d, %s %s: a device sees %q, %v", cut, when, op, got, err)
			}
			return got
		}
		at := 0
		f := &folder{dir: m.dir, step: func(name string) error {
			op = name
			if at++; at-1 == cut {
				return errCut
			}
			return nil
		}}
		_, err := Mirror(t.Context(), s.client(origin), f, MirrorOptions{})
		if done = err == nil; !done && !errors.Is(err, errCut) {
			t.Fatalf("cut %d: Mirror = %v", cut, err)
		}
		seen[look("after")]++
		if _, err := s.mirrorTo(m, origin); err != nil {
			t.Fatalf("cut %d (%s): the next Mirror = %v", cut, op, err)
		}
		if got := look("after the next run of"); got != "1 2" {
			t.Fatalf("cut %d (%s): after the next run a device sees %q", cut, op, got)
		}
	}
	if seen["1"] < 20 || seen["1 2"] < 2 {
		t.Errorf("seen %v: the test does not cut what it should", seen)
	}
}

// TestMirrorBadOrigin: whatever an origin answers, the error says what, and the copy stays.
func TestMirrorBadOrigin(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	before := s.copyOf()
	if err := os.CopyFS(before.dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	stranger := newSite(t)
	stranger.publish(stranger.slot("1"))
	m := s.copyOf()
	if _, err := s.mirrorTo(m, s.serve(nil)); err != nil {
		t.Fatal(err)
	}
	s.publish(s.slot("2"))
	if _, err := s.mirrorTo(m, s.serve(nil)); err != nil {
		t.Fatal(err)
	}
	s.publish(s.slot("3"))
	flipped := func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(filepath.Join(s.dir, r.URL.Path))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		b[len(b)/2] ^= 1
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(b)-1, len(b)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(b)
	}
	for _, c := range []struct {
		name  string
		dir   string
		wrap  func(http.Handler) http.Handler
		later time.Duration
		want  error
	}{
		{name: "older state", dir: before.dir, want: ErrRollback},
		{name: "other keys", dir: stranger.dir, want: ErrUntrusted},
		{name: "nothing", dir: t.TempDir(), want: ErrUnreachable},
		{name: "page", wrap: instead("timestamp.json", page), want: ErrUntrusted},
		{name: "endless", wrap: instead("timestamp.json", endless), want: ErrTooLarge},
		{name: "flipped bit in an image", wrap: instead(".blob", flipped), want: ErrUntrusted},
		{name: "image is gone", wrap: instead(".blob", status(404)), want: ErrUnreachable},
		{name: "image is a page", wrap: instead(".manifest", page), want: ErrUntrusted},
		{name: "expired", later: 30 * 24 * time.Hour, want: ErrExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := *s
			if c.dir != "" {
				o.dir = c.dir
			}
			client := s.client(o.serve(c.wrap))
			client.Now = func() time.Time { return s.now.Add(c.later) }
			if _, err := Mirror(t.Context(), client, Folder(m.dir), MirrorOptions{}); !errors.Is(err, c.want) {
				t.Errorf("Mirror = %v, want %v", err, c.want)
			}
			if got, err := s.look(s.client(m.serve(nil))); got != "1 2" || err != nil {
				t.Errorf("afterwards a device sees %q, %v", got, err)
			}
		})
	}
	// The disk is full.
	s.publish(s.slot("4"))
	f := &folder{dir: m.dir, step: func(op string) error {
		if strings.HasPrefix(op, "write") && strings.Contains(op, ".blob") {
			return errors.New("no space left on device")
		}
		return nil
	}}
	if _, err := Mirror(t.Context(), s.client(s.serve(nil)), f, MirrorOptions{}); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("Mirror on a full disk = %v", err)
	}
	if got, err := s.look(s.client(m.serve(nil))); got != "1 2" || err != nil {
		t.Errorf("after the full disk a device sees %q, %v", got, err)
	}
	// Two at a time.
	unlock, err := Folder(m.dir).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.mirrorTo(m, s.serve(nil)); !errors.Is(err, ErrLocked) {
		t.Errorf("second Mirror = %v, want %v", err, ErrLocked)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
	// And then all is well.
	if _, err := s.mirrorTo(m, s.serve(nil)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.look(s.client(m.serve(nil))); got != "1 2 3 4" || err != nil {
		t.Errorf("in the end a device sees %q, %v", got, err)
	}
}
