package repository

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (s *site) open() *Repository {
	s.t.Helper()
	r, err := Open(s.t.Context(), Folder(s.dir))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// latest returns what a device that follows a channel would install.
func (s *site) latest(channel string) string {
	s.t.Helper()
	cat, _, err := s.client(s.serve(nil)).Refresh(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	img, _ := cat.Latest("eos", "qemu", "amd64", channel)
	return img.Version
}

func TestPromote(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	testing := s.opts
	testing.Channel = Testing
	r := s.open()
	if _, err := r.Publish(t.Context(), []string{s.slot("2")}, testing); err != nil {
		t.Fatal(err)
	}
	if a, b := s.latest(Stable), s.latest(Testing); a != "1" || b != "2" {
		t.Errorf("before: stable has %s, testing %s; want 1 and 2", a, b)
	}
	_, moved, err := r.Promote(t.Context(), "eos", "", "2", Stable, s.opts)
	if err != nil || len(moved) != 1 || moved[0].Channel != Testing {
		t.Errorf("Promote = %+v, %v; want one image that was in testing", moved, err)
	}
	if a, b := s.latest(Stable), s.latest(Testing); a != "2" || b != "2" {
		t.Errorf("after: stable has %s, testing %s; want 2 for both", a, b)
	}
	before := snapshotDir(t, s.dir)
	if _, moved, err := r.Promote(t.Context(), "eos", "qemu", "2", Stable, s.opts); err != nil || len(moved) != 0 || snapshotDir(t, s.dir) != before {
		t.Errorf("Promote again = %v, %v; want nothing to change", moved, err)
	}
	online := s.opts
	online.Keys = Keyring{s.key(OnlineKey)}
	for _, c := range []struct {
		name, class, version, channel string
		opts                          PublishOptions
		want                          string
	}{
		{"eos", "", "3", Stable, s.opts, ErrNoImage.Error()},
		{"eos", "rpi", "2", Testing, s.opts, ErrNoImage.Error()},
		{"eos", "", "2", "a b", s.opts, "want letters"},
		{"eos", "", "2", Testing, online, ErrNoKeys.Error()},
	} {
		if _, _, err := r.Promote(t.Context(), c.name, c.class, c.version, c.channel, c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Promote(%s, %s, %s, %s) = %v, want %q", c.name, c.class, c.version, c.channel, err, c.want)
		}
	}
	if snapshotDir(t, s.dir) != before {
		t.Error("a refused Promote changed the repository")
	}
}

// TestPrune keeps what is listed and what a reader may be about to read.
func TestPrune(t *testing.T) {
	s := newSite(t)
	for _, v := range []string{"1", "2", "3"} {
		s.publish(s.slot(v))
	}
	beta := s.opts
	beta.Channel = Testing
	r := s.open()
	if _, err := r.Publish(t.Context(), []string{s.slot("0.1")}, beta); err != nil {
		t.Fatal(err)
	}
	// A reader that has the list of before.
	server := s.serve(nil)
	c := s.client(server)
	cat, _, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old, ok := cat.Find("eos", "qemu", "amd64", "1")
	if !ok {
		t.Fatal("version 1 is not there")
	}
	prune := func(keep int, grace time.Duration, dry bool) *Pruned {
		t.Helper()
		o := PruneOptions{PublishOptions: s.opts, Keep: keep, Grace: grace, DryRun: dry}
		o.Now = time.Now // files are dated by it
		p, err := r.Prune(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := snapshotDir(t, s.dir)
	if p := prune(2, 0, true); len(p.Images) != 1 || p.Images[0].Version != "1" || snapshotDir(t, s.dir) != before {
		t.Errorf("dry run = %+v; want version 1 to go, and nothing changed", p)
	}
	if p := prune(2, 0, false); len(p.Images) != 1 || p.Files != 0 || p.Later == 0 {
		t.Errorf("Prune = %+v, want version 1 unlisted and its files kept", p)
	}
	if _, err := c.OpenIndex(t.Context(), old); err != nil {
		t.Errorf("a reader with the old list = %v", err)
	}
	// Later, the files go too, and then nothing is left to do.
	later := time.Now().Add(-8 * 24 * time.Hour)
	err = filepath.WalkDir(s.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chtimes(p, later, later)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := prune(2, 0, false)
	if len(p.Images) != 0 || p.Files < 3+4 || p.Later != 0 {
		t.Errorf("Prune later = %+v, want three files of version 1 and old metadata removed", p)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "targets/eos/qemu/1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of version 1: %v, want it gone", err)
	}
	if got, err := s.look(s.client(server)); got != "0.1 2 3" || err != nil {
		t.Errorf("device sees %q, %v; want 0.1 2 3", got, err)
	}
	if p := prune(2, 0, false); p.Files != 0 {
		t.Errorf("Prune again = %+v, want nothing", p)
	}
	if rep, err := r.Verify(t.Context(), VerifyOptions{Now: s.opts.Now}); err != nil || len(rep.Problems) > 0 || rep.Unlisted != 0 {
		t.Errorf("Verify = %+v, %v", rep, err)
	}
}

func TestVerify(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"), s.slot("2"))
	r := s.open()
	if _, err := r.Rotate(t.Context(), s.exchangeOf(RoleOnline), s.opts); err != nil {
		t.Fatal(err)
	}
	verify := func(o VerifyOptions) *Report {
		t.Helper()
		if o.Now == nil {
			o.Now = s.opts.Now
		}
		o.Accepted = s.opts.Accepted
		rep, err := r.Verify(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	rep := verify(VerifyOptions{})
	if len(rep.Problems) > 0 || rep.Files != 6 || len(rep.Images) != 2 || len(rep.Roles) != 4 || rep.Roles[0].Version != 2 || rep.Roles[0].Threshold != 1 || len(rep.Roles[0].Keys) != 1 {
		t.Errorf("Verify = %+v, want no problem in 6 files", rep)
	}
	rep = verify(VerifyOptions{Now: func() time.Time { return start.Add(10 * 24 * time.Hour) }})
	if len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0], "timestamp metadata has expired") {
		t.Errorf("Verify after 10 days: %q", rep.Problems)
	}
	find := func(pattern string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		return names[0]
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	later := func(b []byte) []byte { return bytes.Replace(b, []byte(`"expires":"2`), []byte(`"expires":"3`), 1) }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	for _, c := range []struct {
		file   string
		change func([]byte) []byte
		want   string
		quick  bool // found by a quick look too
	}{
		{"targets/eos/qemu/1/*.blob", flip, "eos/qemu/1/blob: its SHA-256", false},
		{"targets/eos/qemu/1/*.blob", cut, "eos/qemu/1/blob: ", true},
		{"targets/eos/qemu/2/*.index", flip, "eos/qemu/2/index: its SHA-256", true},
		{"targets/eos/qemu/2/*.manifest", flip, "eos/qemu/2/manifest: its SHA-256", true},
		{"metadata/timestamp.json", later, "timestamp.json", true},
		{"metadata/1.targets.json", cut, "targets.json", true},
		{"metadata/1.root.json", later, "1.root.json, which devices have to go through", true},
	} {
		file := find(c.file)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		edit(t, file, c.change)
		for _, quick := range []bool{false, true} {
			rep := verify(VerifyOptions{Quick: quick})
			if found := len(rep.Problems) == 1 && strings.Contains(rep.Problems[0], c.want); found != (c.quick || !quick) {
				t.Errorf("%s, quick %v: %q, want %q", c.file, quick, rep.Problems, c.want)
			}
		}
		edit(t, file, func([]byte) []byte { return good })
	}
	if err := os.Remove(find("targets/eos/qemu/1/*.index")); err != nil {
		t.Fatal(err)
	}
	if rep := verify(VerifyOptions{}); len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0], "eos/qemu/1/index: 0 bytes") {
		t.Errorf("Verify without an index: %q", rep.Problems)
	}
}
