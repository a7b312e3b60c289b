package systemd_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/flake/unit"
	"github.com/OSInside/eos/internal/flake/unit/systemd"
)

// place is a system of a test, whose systemctl notes what it is told.
type place struct {
	*testing.T
	systemd.Manager
	root, flakes string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{T: t, root: t.TempDir()}
	p.flakes = p.root + "/flakes"
	p.Manager = systemd.Manager{Dir: p.root + "/run", Path: []string{p.root + "/etc", p.root + "/run", p.root + "/lib"}, Running: true, Systemctl: []string{p.root + "/systemctl", "-q"}}
	p.put("systemctl", "#!/bin/sh\necho \"$*\" >> ${0%/*}/calls\n[ ! -e ${0%/*}/fail ] || { echo it is broken >&2; exit 1; }\n")
	if err := os.Chmod(p.root+"/systemctl", 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) put(name, text string) {
	p.Helper()
	file := filepath.Join(p.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		p.Fatal(err)
	}
}

func (p *place) flake(name, of string) {
	p.Helper()
	u := unit.Unit{Name: name, Flake: of, Command: "/bin/" + of}
	text, err := u.Text()
	if err != nil {
		p.Fatal(err)
	}
	p.put("flakes/units/"+name+".service", string(text))
	p.put("flakes/"+of+".yaml", "")
}

// state are the links, and what systemctl was told since.
func (p *place) state() string {
	p.Helper()
	var out []string
	err := filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			to, _ := os.Readlink(path)
			out = append(out, strings.TrimPrefix(path, p.Dir+"/")+" -> "+strings.TrimPrefix(to, p.root))
		}
		return nil
	})
	calls, _ := os.ReadFile(p.root + "/calls")
	_ = os.Remove(p.root + "/calls")
	if err != nil {
		p.Fatal(err)
	}
	return strings.Join(append(out, strings.Split(strings.TrimSpace(string(calls)), "\n")...), "\n")
}

func (p *place) link(wantNames, wantErr string) {
	p.Helper()
	names, err := p.Link(p.Context(), p.flakes)
	if got := strings.Join(names, " "); got != wantNames || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
		p.Errorf("Link = %s, %v, want %s, %q", got, err, wantNames, wantErr)
	}
}

func TestLink(t *testing.T) {
	p := newPlace(t)
	expect := func(want string) {
		t.Helper()
		if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), p.state()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	p.link("", "")
	p.flake("one", "app")
	p.link("one", "")
	expect(`
multi-user.target.wants/one.service -> ../one.service
one.service -> /flakes/units/one.service
-q daemon-reload`)
	p.link("one", "") // again: there is nothing to do
	expect(`
multi-user.target.wants/one.service -> ../one.service
one.service -> /flakes/units/one.service
`)
	// What is broken, and what is not ours, keeps nobody from anything.
	p.put("flakes/units/a.service", "[Service]\n")
	p.flake("b", "nobody")
	p.flake("ssh", "x")
	p.flake("two", "x")
	p.put("lib/ssh.service", "")
	p.put("flakes/units/.three.service.new", "")
	if err := errors.Join(os.Remove(p.flakes+"/nobody.yaml"), os.Mkdir(p.flakes+"/units/dir.service", 0o755), os.Symlink("/elsewhere", p.Dir+"/mine.service")); err != nil {
		t.Fatal(err)
	}
	p.link("one two", "another unit has this name: "+p.root+"/lib/ssh.service")
	const both = `
mine.service -> /elsewhere
multi-user.target.wants/one.service -> ../one.service
multi-user.target.wants/two.service -> ../two.service
one.service -> /flakes/units/one.service
two.service -> /flakes/units/two.service
-q daemon-reload`
	expect(both)
	// A cut between any two links is made good.
	for _, cut := range []string{"two.service", "multi-user.target.wants/two.service"} {
		if err := os.Remove(filepath.Join(p.Dir, cut)); err != nil {
			t.Fatal(err)
		}
		p.link("one two", "ssh.service")
		expect(both)
	}
	// Those that are no more go.
	if err := errors.Join(os.Remove(p.flakes+"/units/two.service"), os.Remove(p.flakes+"/app.yaml"), os.Remove(p.Dir+"/multi-user.target.wants/two.service")); err != nil {
		t.Fatal(err)
	}
	p.link("", "one.service: it is of no flake that is registered")
	expect(`
mine.service -> /elsewhere
-q daemon-reload`)
	// Where systemd does not run, nobody is told.
	p.Running = false
	p.flake("one", "app")
	p.link("one", "ssh.service")
	if got := p.state(); strings.Contains(got, "daemon-reload") || !strings.Contains(got, "one.service") {
		t.Errorf("without systemd: %s", got)
	}
}

func TestStartAndStop(t *testing.T) {
	p := newPlace(t)
	p.flake("one", "app")
	p.flake("two", "app")
	if err := p.Stop(t.Context(), p.flakes, "one"); err != nil { // nobody knows it
		t.Error(err)
	}
	p.link("one two", "")
	if err := errors.Join(p.Start(t.Context(), nil), p.Start(t.Context(), []string{"one", "two"}), p.Stop(t.Context(), p.flakes, "two")); err != nil {
		t.Error(err)
	}
	if got, want := p.state(), "-q daemon-reload\n-q start --no-block -- one.service two.service\n-q stop -- two.service"; !strings.HasSuffix(got, want) {
		t.Errorf("systemctl was told %s, want %s", got, want)
	}
	p.put("fail", "")
	if err := p.Stop(t.Context(), p.flakes, "two"); err == nil || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("Stop = %v", err)
	}
	p.Running = false
	if err := errors.Join(p.Start(t.Context(), []string{"one"}), p.Stop(t.Context(), p.flakes, "one")); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}

// Without a folder for links nothing is made: one below /run would say that systemd runs.
func TestNoLinks(t *testing.T) {
	p := newPlace(t)
	p.flake("one", "app")
	dir := p.Dir
	p.Dir, p.Running = "", false
	p.link("one", "")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want that it is not made", dir, err)
	}
	if err := p.Free(p.flakes, "one"); err != nil || p.Linked(p.flakes, "one") {
		t.Errorf("Free = %v, linked %v", err, p.Linked(p.flakes, "one"))
	}
}
