package registration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/unit"
)

// knife does the operations of disk up to one of them. There the run is killed, before the
// operation or in the midst of it, or the operation fails and the run goes on.
type knife struct {
	disk
	left int
	mode string // killed, torn or fails
}

var (
	errKilled = errors.New("killed")
	errFails  = errors.New("no space left")
)

func (k *knife) cut(torn func()) error {
	k.left--
	switch {
	case k.left != 0:
		return nil
	case k.mode == "fails":
		torn()
		return errFails
	case k.mode == "torn":
		torn()
	}
	panic(errKilled)
}

func (k *knife) mkdir(path string) error {
	return errors.Join(k.cut(func() {}), k.or(disk.mkdir, path))
}
func (k *knife) or(do func(disk, string) error, path string) error {
	if k.left == 0 {
		return nil
	}
	return do(k.disk, path)
}
func (k *knife) remove(path string) error {
	if err := k.cut(func() {}); err != nil {
		return err
	}
	return k.disk.remove(path)
}
func (k *knife) sync(string) error {
	if err := k.cut(func() {}); err != nil {
		return err
	}
	return nil // the kernel lives on
}
func (k *knife) symlink(target, path string) error {
	if err := k.cut(func() {}); err != nil {
		return err
	}
	return k.disk.symlink(target, path)
}
func (k *knife) rename(from, to string) error {
	if err := k.cut(func() {}); err != nil {
		return err
	}
	return k.disk.rename(from, to)
}
func (k *knife) write(path string, data []byte) error {
	if err := k.cut(func() { _ = os.WriteFile(path, data[:len(data)/2], 0o644) }); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
func (k *knife) removeAll(path string) error {
	half := func() { // some of it is gone
		entries, _ := os.ReadDir(path)
		for _, e := range entries[:len(entries)/2] {
			_ = os.RemoveAll(filepath.Join(path, e.Name()))
		}
	}
	if err := k.cut(half); err != nil {
		return err
	}
	return k.disk.removeAll(path)
}

// tree is everything below a folder, as a text.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		switch {
		case e.Name() == lockFile:
		case e.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&out, "%s -> %s\n", rel, target)
		case e.IsDir():
			fmt.Fprintf(&out, "%s/\n", rel)
		default:
			data, _ := os.ReadFile(path)
			fmt.Fprintf(&out, "%s: %s\n", rel, data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// visibleUnit tells whether somebody may start a unit of a flake that is none: the file of a
// unit has its name only while its flake is registered.
func visibleUnit(t *testing.T, root string) {
	t.Helper()
	files, _ := filepath.Glob(root + "/flakes/units/*.service")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if _, missing := os.Stat(root + "/flakes/" + unit.Owner(text) + ".yaml"); err != nil || missing != nil {
			t.Errorf("%s is of %q: %v, %v", f, unit.Owner(text), err, missing)
		}
	}
}

// visible is what anybody sees of flakes: registrations, and commands that lead to one.
func visible(t *testing.T, root string) string {
	t.Helper()
	all, err := flake.List(root+"/flakes", "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range all {
		fmt.Fprintf(&out, "%s %s %v linked=%v\n", e.Name, e.Image, e.Err != nil, isLink(e.Host))
	}
	return out.String()
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// hooks forget a flake's folder, in the folder that the change names.
func hooks(root string, ops operations) Hooks {
	return Hooks{Forget: func(flake, leaves string) error {
		dir := filepath.Join(root, leaves, flake)
		if leaves == "" || !there(dir) {
			return nil
		}
		return ops.removeAll(dir)
	}}
}

// change is something that is done to a folder of registrations.
type change struct {
	name   string
	before func(t *testing.T, root string)
	do     func(s *Store, root string) error
}

func add(t *testing.T, root string, o Options) {
	t.Helper()
	s, err := Open(t.Context(), root+"/flakes", hooks(root, disk{}))
	if err == nil {
		err = errors.Join(s.Add(o, false), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

var changes = []change{
	{"register", func(*testing.T, string) {}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/usr/local/bin/app", Image: "new", RunAs: "root"}, false)
	}},
	{"register beside another", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/other", Image: "x", RunAs: "root"})
	},
		func(s *Store, root string) error {
			return s.Add(Options{App: root + "/bin/a.b c", Image: "new", RunAs: "root"}, true)
		}},
	{"replace", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root"})
	},
		func(s *Store, root string) error {
			return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root"}, true)
		}},
	{"replace elsewhere", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root"})
	},
		func(s *Store, root string) error {
			return s.Add(Options{App: root + "/sbin/app", Image: "new", RunAs: "root"}, true)
		}},
	{"replace a broken one", func(t *testing.T, root string) { put(t, root+"/flakes/app.yaml", "container: [") },
		func(s *Store, root string) error {
			return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root"}, true)
		}},
	{"take over a link", func(t *testing.T, root string) {
		put(t, root+"/flakes/app.d/one", "")
		if err := errors.Join(os.MkdirAll(root+"/bin", 0o755), os.Symlink(Pilot, root+"/bin/app")); err != nil {
			t.Fatal(err)
		}
	}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root"}, true)
	}},
	{"remove", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root"})
		put(t, root+"/flakes/app.d/one", "container: {name: changed}\n")
		put(t, root+"/flakes/app.d/two", "")
		put(t, root+"/containers/app/one", "")
		put(t, root+"/containers/app/two", "")
		put(t, root+"/containers/other/one", "")
	}, func(s *Store, root string) error {
		_, err := s.Remove("app", root+"/bin/app", "containers", false)
		return err
	}},
	{"register a service", func(*testing.T, string) {}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root", Unit: "app.one"}, false)
	}},
	{"register a service beside another", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/other", Image: "x", RunAs: "root", Unit: "other"})
	}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root", Unit: "app"}, false)
	}},
	{"replace a service", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root", Unit: "app"})
	}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/sbin/app", Image: "new", RunAs: "root", Unit: "app"}, true)
	}},
	{"replace a service with another name", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root", Unit: "one"})
	}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root", Unit: "two"}, true)
	}},
	{"replace a service with none", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root", Unit: "app"})
	}, func(s *Store, root string) error {
		return s.Add(Options{App: root + "/bin/app", Image: "new", RunAs: "root"}, true)
	}},
	{"remove a service", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root", Unit: "app"})
		add(t, root, Options{App: root + "/bin/other", Image: "old", RunAs: "root", Unit: "other"})
	}, func(s *Store, root string) error {
		_, err := s.Remove("app", "", "", false)
		return err
	}},
	{"remove by force", func(t *testing.T, root string) {
		add(t, root, Options{App: root + "/bin/app", Image: "old", RunAs: "root"})
		put(t, root+"/flakes/app.yaml", "\t")
	}, func(s *Store, root string) error {
		_, err := s.Remove("app", root+"/bin/app", "", true)
		return err
	}},
}

// try does a change with a knife and tells whether it was cut.
func try(t *testing.T, root string, c change, k *knife) (err error, killed bool) {
	t.Helper()
	s, err := open(t.Context(), root+"/flakes", hooks(root, k), k)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // as the kernel does
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled {
				panic(r)
			}
			killed = true
		}
	}()
	return c.do(s, root), false
}

// TestEveryCut kills each change at each operation, and before the next run anybody sees
// either all of it or nothing. After the next run the disk is as before or as after it.
func TestEveryCut(t *testing.T) {
	for _, c := range changes {
		start := func() string {
			root := t.TempDir()
			put(t, root+"/flakes/broken.yaml", ":")
			c.before(t, root)
			return root
		}
		relative := func(root, text string) string { return strings.ReplaceAll(text, root, "") }
		root := start()
		seenBefore, before := relative(root, visible(t, root)), relative(root, tree(t, root))
		if err, killed := try(t, root, c, &knife{left: -1}); err != nil || killed {
			t.Fatalf("%s: %v", c.name, err)
		}
		seenAfter, after := relative(root, visible(t, root)), relative(root, tree(t, root))
		if before == after {
			t.Fatalf("%s changes nothing", c.name)
		}
		for _, mode := range []string{"killed", "torn", "fails"} {
			cuts := 0
			for n := 1; ; n++ {
				root := start()
				k := &knife{left: n, mode: mode}
				err, _ := try(t, root, c, k)
				if k.left > 0 {
					break // there are no more operations
				}
				cuts++
				if !strings.HasPrefix(c.name, "remove") { // there it goes after the flake
					visibleUnit(t, root)
				}
				if got := relative(root, visible(t, root)); got != seenBefore && got != seenAfter {
					t.Errorf("%s, %s at %d: anybody sees\n%s, want\n%s or\n%s", c.name, mode, n, got, seenBefore, seenAfter)
				}
				if mode == "fails" && !errors.Is(err, errFails) {
					t.Errorf("%s, %s at %d: %v, want %v", c.name, mode, n, err, errFails)
				}
				s, err := Open(t.Context(), root+"/flakes", hooks(root, disk{}))
				if err != nil || len(s.Left) > 0 {
					t.Fatalf("%s, %s at %d: the next run: %v, %v", c.name, mode, n, err, s.Left)
				}
				got := relative(root, tree(t, root))
				if got != before && got != after {
					t.Errorf("%s, %s at %d: the next run leaves\n%s, want\n%s or\n%s", c.name, mode, n, got, before, after)
				}
				if got == before {
					if err := c.do(s, root); err != nil {
						t.Errorf("%s, %s at %d: again: %v", c.name, mode, n, err)
					}
					if got := relative(root, tree(t, root)); got != after {
						t.Errorf("%s, %s at %d: again leaves\n%s, want\n%s", c.name, mode, n, got, after)
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if cuts < 5 {
				t.Errorf("%s, %s: %d cuts, want one at each operation", c.name, mode, cuts)
			}
		}
	}
}

// TestCutInRecovery kills the run that clears up as well.
func TestCutInRecovery(t *testing.T) {
	for _, c := range changes {
		for n := 1; ; n++ {
			root := t.TempDir()
			c.before(t, root)
			before := tree(t, root)
			k := &knife{left: n, mode: "killed"}
			try(t, root, c, k)
			if k.left > 0 {
				break
			}
			for m := 1; ; m++ {
				k := &knife{left: m, mode: "killed"}
				func() {
					defer func() { _ = recover() }()
					if s, err := open(t.Context(), root+"/flakes", hooks(root, k), k); err == nil {
						s.Close()
					}
				}()
				if k.left > 0 || m > 50 {
					break
				}
			}
			s, err := Open(t.Context(), root+"/flakes", hooks(root, disk{}))
			if err != nil || len(s.Left) > 0 {
				t.Fatalf("%s at %d: %v, %v", c.name, n, err, s.Left)
			}
			if tree(t, root) == before {
				err = c.do(s, root)
			}
			if journals, _ := filepath.Glob(root + "/flakes/.*"); err != nil || len(journals) != 1 { // the lock
				t.Errorf("%s at %d: %v, left: %v", c.name, n, err, journals)
			}
			s.Close()
		}
	}
}
