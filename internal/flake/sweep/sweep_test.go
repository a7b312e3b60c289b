package sweep

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/lockfile"
)

func TestLeftovers(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name, record string
		want         bool
	}{
		{"running", `{"State": "running", "Pid": 1, "Labels": {"eos.flake": "app"}}`, false},
		{"running, by a process that is gone", `{"State": "running", "Pid": 2, "Labels": {"eos.flake": "app"}}`, true},
		{"paused", `{"State": "paused", "Pid": 1, "Labels": {"eos.flake": "app"}}`, false},
		{"created", `{"State": "created", "Created": 900, "Labels": {"eos.flake": "app"}}`, true},
		{"just created", `{"State": "created", "Created": 950, "Labels": {"eos.flake": "app"}}`, false},
		{"created, by a clock that was set back", `{"State": "created", "Created": 2000, "Labels": {"eos.flake": "app"}}`, true},
		{"ended", `{"State": "exited", "Created": 900, "Labels": {"eos.flake": "app"}}`, true},
		{"removing", `{"State": "removing", "Created": 900, "Labels": {"eos.flake": "app"}}`, true},
		{"one that stays", `{"State": "exited", "Created": 900, "Labels": {"eos.flake": "app", "eos.flake.stays": "true"}}`, false},
		{"one that stays and lost its process", `{"State": "running", "Pid": 2, "Labels": {"eos.flake": "app", "eos.flake.stays": "true"}}`, false},
		{"half made", `{"State": "storage", "Created": 900, "Names": ["flake.app_.x"], "Labels": null}`, true},
		{"half made a moment ago", `{"State": "storage", "Created": 999, "Names": ["flake.app_.x"], "Labels": null}`, false},
		{"somebody else's", `{"State": "storage", "Created": 900, "Names": ["work-flake.app"], "Labels": null}`, false},
		{"somebody else's without a name", `{"State": "storage", "Created": 900, "Labels": null}`, false},
		{"of no flake", `{"State": "exited", "Created": 900, "Names": ["flake.app"], "Labels": {"x": "y"}}`, false},
		{"of no flake, without labels", `{"State": "exited", "Created": 900, "Names": ["flake.app"], "Labels": null}`, false},
	} {
		all, err := parse([]byte("[" + c.record + "]"))
		if err != nil {
			t.Fatal(err)
		}
		got := leftovers(all, now, time.Minute, func(pid int) bool { return pid == 1 })
		if (len(got) == 1) != c.want {
			t.Errorf("%s: %+v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"Id": "f1", "State": "exited", "Names": [], "Labels": {"eos.flake": "gone"}}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parse(text)
		if err != nil {
			return
		}
		for _, c := range leftovers(all, time.Unix(1000, 0), 0, func(int) bool { return false }) {
			if c.Flake == "" && !strings.HasPrefix(c.Name, "flake.") {
				t.Errorf("%+v is of no flake", c)
			}
		}
	})
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A store without containers is told from its tables, and anything else is for podman to say.
func TestEmpty(t *testing.T) {
	for _, c := range []struct {
		usual, volatile string
		want            bool
	}{
		{"", "", true}, {"[]", "", true}, {"[]\n", "[]", true}, {"null", "[]", true},
		{"[{}]", "[]", false}, {"[]", "[{}]", false}, {"?", "", false},
	} {
		s := Store{Root: t.TempDir(), Podman: []string{"/podman/is/not/there"}}
		for name, text := range map[string]string{"containers.json": c.usual, "volatile-containers.json": c.volatile} {
			if text != "" {
				put(t, s.Root+"/overlay-containers/"+name, text)
			}
		}
		if _, err := s.Leftovers(t.Context()); (err == nil) != c.want {
			t.Errorf("%q and %q: podman is asked: %v", c.usual, c.volatile, err)
		}
	}
	s := Store{Podman: []string{"/podman/is/not/there"}}
	if _, err := s.OfFlake(t.Context(), "app"); err == nil {
		t.Error("a store that is not known: podman is not asked")
	}
}

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		text, root, user string
	}{
		{"", usual, ""},
		{"[storage]\ndriver = \"overlay\"\ngraphroot = \"/a\" # here\n", "/a", "/a"},
		{"[storage]\ngraphroot='/a'\nrootless_storage_path = \"/u\"\n[storage.options]\ngraphroot = \"/x\"\n", "/a", "/u"},
		{"[storage]\nrootless_storage_path = \"$HOME/x\"\n", usual, ""},
		{"[storage]\ngraphroot = \"\"\"/a\"\"\"\n", "/a", "/a"},
		{"[storage]\ngraphroot = /a\n", "", ""},
		{"# graphroot = \"/x\"\n", usual, ""},
	} {
		put(t, dir+"/storage.conf", c.text)
		files := []string{"", dir + "/none", dir + "/storage.conf", dir}
		if got, user := Root(files, false), Root(files, true); got != c.root || user != c.user {
			t.Errorf("Root of %q = %q, of a user %q; want %q, %q", c.text, got, user, c.root, c.user)
		}
	}
	if got := Root([]string{dir + "/none"}, false); got != usual {
		t.Errorf("Root without settings = %q", got)
	}
	if got := Root([]string{dir}, false); got != "" {
		t.Errorf("Root of settings that cannot be read = %q", got)
	}
}

func TestFolders(t *testing.T) {
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	expect := func(want ...string) {
		t.Helper()
		got, err := s.Folders()
		for i, g := range got {
			got[i] = strings.TrimPrefix(g, s.Root)
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("Folders: %v (-want +got):\n%s", err, diff)
		}
	}
	expect()
	make := func() {
		put(t, s.Root+"/tmp/flake.unfinished-1/blobs/x", "")
		put(t, s.Root+"/tmp/other-1/x", "")
	}
	make()
	expect("/tmp/flake.unfinished-1")
	make()
	put(t, s.Run+"/assemble.lock", "")
	expect("/tmp/flake.unfinished-1")
	make()
	f, err := os.Open(s.Run + "/assemble.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	expect() // somebody is at work
	f.Close()
	expect("/tmp/flake.unfinished-1")
	if _, err := os.Stat(s.Root + "/tmp/other-1/x"); err != nil {
		t.Error(err)
	}
}

func TestForget(t *testing.T) {
	s := Store{Run: t.TempDir()}
	one, held, other := flake.ContainerName("a", "one"), flake.ContainerName("a", ""), flake.ContainerName("a.b", "")
	long := flake.ContainerName(strings.Repeat("\x01", 180), "")
	for _, container := range []string{one, held, other, long} {
		put(t, filepath.Join(s.Run, flake.StateFile(container, ".cid")), "")
		put(t, filepath.Join(s.Run, flake.StateFile(container, ".lock")), "")
	}
	l, err := lockfile.Try(filepath.Join(s.Run, held+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, container := range []string{one, held, long, "never.was"} {
		if err := s.forget(container); err != nil {
			t.Error(err)
		}
	}
	var left []string
	entries, _ := os.ReadDir(s.Run)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"flake.a.b.cid", "flake.a.b.lock", "flake.a.lock"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	s.Run += "/none"
	if err := s.forget(one); err != nil {
		t.Error(err)
	}
}

// What was there before the system was started is not about to start, however young it is.
func TestYouth(t *testing.T) {
	if got := youth(time.Second); got != time.Second {
		t.Errorf("youth(1s) = %v on a system that has been up for longer", got)
	}
	const forever = 1 << 62
	if got := youth(forever); got == forever || got <= 0 {
		t.Errorf("youth(for ever) = %v, want how long the system has been up", got)
	}
}
