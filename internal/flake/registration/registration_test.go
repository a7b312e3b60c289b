package registration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
)

// whole is a registration in the form of the older system.
const whole = `---
include:
  tar:
    - /x.tar
  path:
    - /etc/hosts
container:
  name: registry.example.com/app:1
  target_app_path: /usr/bin/app
  host_app_path: /usr/share/flakes/bin/my.app
  base_container: basesystem
  check_host_dependencies: true
  layers:
    - python
  runtime:
    runas: root
    resume: false
    attach: true
    podman:
      - --rm
      - -e A="b c"
      - --volume %HOME:/home
vm: ~
`

const least = `---
include:
  tar: ~
  path: ~
container:
  name: img
  target_app_path: ~
  host_app_path: /bin/x
  base_container: ~
  check_host_dependencies: false
  layers: ~
  runtime:
    runas: "123"
    resume: false
    attach: false
    podman:
      - -ti
vm: ~
`

func TestText(t *testing.T) {
	for _, c := range []struct {
		o    registration.Options
		want string
	}{
		{registration.Options{
			App: "/usr/share/flakes/bin/my.app", Image: "registry.example.com/app:1", Target: "/usr/bin/app", Base: "basesystem",
			Layers: []string{"python"}, CheckHost: true, Tar: []string{"/x.tar"}, Path: []string{"/etc/hosts"}, RunAs: "root", Attach: true,
			Podman: []string{"--rm", `-e A="b c"`, "--volume %HOME:/home"},
		}, whole},
		{registration.Options{App: "/bin/x", Image: "img", RunAs: "123"}, least},
	} {
		got, err := c.o.Text()
		if diff := cmp.Diff(c.want, string(got)); err != nil || diff != "" {
			t.Errorf("Text: %v (-want +got):\n%s", err, diff)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, c := range []struct {
		change func(*registration.Options)
		want   string
	}{
		{func(o *registration.Options) { o.App = "bin/x" }, "want an absolute path"},
		{func(o *registration.Options) { o.App = "" }, "want an absolute path"},
		{func(o *registration.Options) { o.App = "/" }, "want the path of a file"},
		{func(o *registration.Options) { o.App = "/bin/" }, "want the path of a file"},
		{func(o *registration.Options) { o.App = "/bin/../x" }, "want the path of a file"},
		{func(o *registration.Options) { o.App = "/bin/.x" }, "begins with a dot"},
		{func(o *registration.Options) { o.App = "/bin/" + strings.Repeat("x", 300) }, "longer than 180 bytes"},
		{func(o *registration.Options) { o.App = "/bin/a\x1b[31m" }, "that are no text"},
		{func(o *registration.Options) { o.App = "/bin/\xff" }, "that are no text"},
		{func(o *registration.Options) { o.App = "/opt/podman-pilot" }, "name of the launcher"},
		{func(o *registration.Options) { o.Image = "" }, "no container"},
		{func(o *registration.Options) { o.Image = "--privileged" }, "not the name of a container"},
		{func(o *registration.Options) { o.Target = "app" }, "no absolute path"},
		{func(o *registration.Options) { o.Layers = []string{"x"} }, "layers need a base"},
		{func(o *registration.Options) { o.Base, o.Layers = "b", []string{"-x"} }, "not the name of a container"},
		{func(o *registration.Options) { o.Resume, o.Attach = true, true }, "exclude each other"},
		{func(o *registration.Options) { o.Podman = []string{"-e A=\x00"} }, "is no text"},
		{func(o *registration.Options) { o.Unit, o.Resume = "x", true }, "a container that stays is no service"},
		{func(o *registration.Options) { o.Unit, o.Attach = "x", true }, "a container that stays is no service"},
		{func(o *registration.Options) { o.Notify = true }, "no unit that waits"},
		{func(o *registration.Options) { o.Unit = "x@" }, `unit "x@": it cannot be that of a service`},
		{func(o *registration.Options) { o.Unit = "../x" }, "cannot be that of a service"},
		{func(o *registration.Options) { o.Unit, o.App = "x", "/bin/a b" }, `command "/bin/a b": it cannot be that of a service`},
	} {
		o := registration.Options{App: "/bin/x", Image: "img", RunAs: "root"}
		c.change(&o)
		if text, err := o.Text(); !errors.Is(err, registration.ErrOptions) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Text of %+v = %q, %v, want %q", o, text, err, c.want)
		}
	}
}

func TestUnitText(t *testing.T) {
	o := registration.Options{App: "/bin/x", Image: "img", RunAs: "root", Unit: "xd", Notify: true}
	text, err := o.Text()
	if err != nil || !strings.Contains(string(text), "- -ti\n      - --sdnotify=container\n") || len(o.Podman) > 0 {
		t.Errorf("Text of one that says when it is ready = %s, %v", text, err)
	}
	for _, c := range []struct{ option, want string }{
		{"--sdnotify=ignore", "Type=exec\n"}, {"--sdnotify ignore", "Type=exec\n"}, {"--sdnotify=container", "Type=notify\n"}, {"-i", "Type=notify\n"},
	} {
		o.Podman = []string{c.option}
		unit, err := o.UnitText()
		text, err2 := o.Text()
		if err := errors.Join(err, err2); err != nil || !strings.Contains(string(unit), c.want) || strings.Count(string(text), "sdnotify") != 1 {
			t.Errorf("with %s: %v\n%s\n%s, want %s", c.option, err, unit, text, c.want)
		}
	}
}

// A unit of another flake is in the way, and one that does not stop keeps its flake.
func TestUnitsInTheWay(t *testing.T) {
	root := t.TempDir()
	var stopped []string
	s, err := registration.Open(t.Context(), root+"/flakes", registration.Hooks{Stop: func(name string) error {
		stopped = append(stopped, name)
		return errors.New("it hangs")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	of := func(name, unit string) registration.Options {
		return registration.Options{App: root + "/bin/" + name, Image: "img", RunAs: "root", Unit: unit}
	}
	if err := s.Add(of("a", "one"), false); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(of("b", "one"), true); !errors.Is(err, registration.ErrInTheWay) {
		t.Errorf("the unit of another flake: %v, want ErrInTheWay", err)
	}
	if err := os.WriteFile(root+"/flakes/units/mine.service", []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(of("b", "mine"), true); !errors.Is(err, registration.ErrInTheWay) {
		t.Errorf("a unit that is not ours: %v, want ErrInTheWay", err)
	}
	if _, err := s.Remove("a", "", "", false); err == nil || !strings.Contains(err.Error(), "stop unit one.service: it hangs") {
		t.Errorf("Remove = %v, want that the unit does not stop", err)
	}
	if _, err := os.Stat(root + "/flakes/units/one.service"); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove("a", "", "", true); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"one", "one"}, stopped); diff != "" {
		t.Errorf("stopped (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(root + "/flakes/units")
	if err != nil || len(left) != 1 || left[0].Name() != "mine.service" {
		t.Errorf("left: %v, %v, want what is not ours", left, err)
	}
}

// Whatever is registered is read back as it was said, or refused before anything is written.
func TestTextIsReadBack(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"~", "null", "yes", "0x1", "1e3", "2020-01-01", "a: b", "# c", "- d", "'", `"`, "\\", "\n", " x ", "é", "\u2028", "!x", "&a", "*a", "%A", "|", ">"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		o := registration.Options{
			App: "/" + word.Draw(t, "app"), Image: word.Draw(t, "image"), Target: rapid.SampledFrom([]string{"", "/", "/" + word.Draw(t, "target")}).Draw(t, "t"),
			RunAs: rapid.SampledFrom([]string{"root", "any", "me", "1000", "no"}).Draw(t, "runas"),
			Base:  word.Draw(t, "base"), Layers: rapid.SliceOf(word).Draw(t, "layers"), Tar: rapid.SliceOf(word).Draw(t, "tar"), Path: rapid.SliceOf(word).Draw(t, "path"),
			Podman: rapid.SliceOf(word).Draw(t, "podman"), CheckHost: rapid.Bool().Draw(t, "check"), Resume: rapid.Bool().Draw(t, "resume"),
		}
		text, err := o.Text()
		if err != nil {
			if !errors.Is(err, registration.ErrOptions) {
				t.Fatalf("Text of %+v: %v", o, err)
			}
			return
		}
		got, err := flake.Parse(o.Name(), []flake.File{{Path: "x", Text: text}})
		podman := o.Podman
		if len(podman) == 0 {
			podman = []string{"-ti"}
		}
		some := func(list []string) []string { return append([]string(nil), list...) }
		want := &flake.Registration{Name: o.Name(), Include: flake.Include{Tar: some(o.Tar), Path: some(o.Path)}, Container: flake.Container{
			Name: o.Image, Target: o.Target, Host: o.App, Base: o.Base, CheckHost: o.CheckHost, Layers: some(o.Layers),
			Runtime: flake.Runtime{RunAs: o.RunAs, Resume: o.Resume, Podman: podman},
		}}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("Parse of Text: %v (-want +got):\n%s\n%s", err, diff, text)
		}
	})
}

func open(t *testing.T, dir string) *registration.Store {
	t.Helper()
	s, err := registration.Open(t.Context(), dir, registration.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Whatever is asked for, a file that is no flake is as it was.
func TestForceTouchesOnlyFlakes(t *testing.T) {
	root := t.TempDir()
	bin := root + "/bin"
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(bin+"/program", []byte("precious"), 0o755), os.Symlink("/bin/sh", bin+"/link"),
		os.Symlink("nowhere", bin+"/dangling"), os.Mkdir(bin+"/folder", 0o755),
	); err != nil {
		t.Fatal(err)
	}
	s := open(t, root+"/flakes")
	for _, name := range []string{"program", "link", "dangling", "folder"} {
		o := registration.Options{App: bin + "/" + name, Image: "img", RunAs: "root"}
		for _, force := range []bool{false, true} {
			if err := s.Add(o, force); !errors.Is(err, registration.ErrInTheWay) {
				t.Errorf("Add of %s, force %v = %v, want %v", name, force, err, registration.ErrInTheWay)
			}
			if kept, err := s.Remove(name, o.App, "", force); !errors.Is(err, registration.ErrNotRegistered) || force && len(kept) != 1 {
				t.Errorf("Remove of %s, force %v = %v, %v", name, force, kept, err)
			}
		}
		// One that is registered for it is removed, the file is not.
		if err := os.WriteFile(root+"/flakes/"+name+".yaml", []byte("container: {name: img, host_app_path: "+o.App+"}"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Remove(name, o.App, "", false); !errors.Is(err, registration.ErrInTheWay) {
			t.Errorf("Remove of %s = %v, want %v", name, err, registration.ErrInTheWay)
		}
		if kept, err := s.Remove(name, o.App, "", true); err != nil || len(kept) != 1 || kept[0] != o.App {
			t.Errorf("forced Remove of %s = %v, %v, want that %s is kept", name, kept, err, o.App)
		}
		if _, err := os.Lstat(o.App); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(bin + "/program"); string(text) != "precious" {
		t.Errorf("the program is %q, %v", text, err)
	}
	if entries, err := os.ReadDir(root + "/flakes"); err != nil || len(entries) != 1 { // the lock
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestAddRemove(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("real", root+"/flakes"); err != nil { // leads nowhere yet
		t.Fatal(err)
	}
	s := open(t, root+"/flakes")
	for _, name := range []string{"app", "a.b", "a", "with space", "größe", "-x", "x.yaml", "x.d", strings.Repeat("n", 180)} {
		o := registration.Options{App: root + "/some/where/" + name, Image: "img", RunAs: "root"}
		if err := s.Add(o, false); err != nil {
			t.Error(err)
		}
		if err := s.Add(o, false); !errors.Is(err, registration.ErrInTheWay) {
			t.Errorf("second Add of %s = %v, want %v", name, err, registration.ErrInTheWay)
		}
		r, err := flake.Find(root+"/flakes", "", name)
		if target, _ := os.Readlink(o.App); err != nil || r.Container.Host != o.App || target != registration.Pilot {
			t.Errorf("%s: %+v, %v, linked to %q", name, r, err, target)
		}
		if err := os.WriteFile(root+"/flakes/"+name+".d/10", []byte("container: {name: other}"), 0o644); err != nil {
			t.Error(err)
		}
		if err := s.Add(o, true); err != nil {
			t.Error(err)
		}
		if r, err := flake.Find(root+"/flakes", "", name); err != nil || r.Container.Name != "other" {
			t.Errorf("%s registered again: %+v, %v, want its drop-in", name, r, err)
		}
		if _, err := s.Remove(name, "/elsewhere/"+name, "", false); !errors.Is(err, registration.ErrInTheWay) {
			t.Errorf("Remove by another command = %v, want %v", err, registration.ErrInTheWay)
		}
	}
	all, err := flake.List(root+"/flakes", "")
	if err != nil || len(all) != 9 {
		t.Errorf("List = %v, %v, want 9", all, err)
	}
	for _, e := range all {
		if kept, err := s.Remove(e.Name, "", "", false); err != nil || len(kept) > 0 {
			t.Errorf("Remove of %s = %v, %v", e.Name, kept, err)
		}
	}
	for _, dir := range []string{"/real", "/some/where"} {
		if left, err := filepath.Glob(root + dir + "/[^.]*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// Users read what root registers, whatever root's umask is.
func TestUmask(t *testing.T) {
	root := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o077))
	if err := open(t, root+"/flakes").Add(registration.Options{App: root + "/bin/x", Image: "i", RunAs: "root"}, false); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"flakes": 0o755, "flakes/x.yaml": 0o644, "flakes/x.d": 0o755, "bin": 0o755} {
		if st, err := os.Stat(root + "/" + path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %o", path, st, err, want)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := registration.Open(t.Context(), dir, registration.Hooks{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Add(registration.Options{App: dir + "/bin/x", Image: "i", RunAs: "root"}, true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := registration.Open(ctx, dir, registration.Hooks{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open of a locked folder = %v, want the end of the context", err)
	}
	if _, err := s.Remove("x", "", "", false); err != nil {
		t.Error(err)
	}
}

// A journal that cannot be ended is told, and is in nobody's way.
func TestJournalOfSomebodyElse(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/f", 0o755), os.Mkdir(root+"/f/.bad.journal", 0o755), os.Symlink(registration.Pilot, root+"/other"),
		os.WriteFile(root+"/f/.x.journal", []byte(`{"before": "", "made": ["`+root+`/other"], "after": "1"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := open(t, root+"/f")
	if len(s.Left) != 1 || !strings.Contains(s.Left[0].Error(), "flake bad") {
		t.Errorf("left: %v, want the one of bad", s.Left)
	}
	if err := s.Add(registration.Options{App: root + "/app", Image: "i", RunAs: "root"}, false); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(root + "/other"); err != nil {
		t.Errorf("a link of another flake is gone: %v", err)
	}
}
