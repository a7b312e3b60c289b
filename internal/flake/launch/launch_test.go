package launch

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/registrystate"
)

func TestPassed(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		got := passed(terminal)
		for sig, want := range map[syscall.Signal]bool{
			1: true, 2: true, 3: true, 10: true, 12: true, 14: true, 15: true, 20: true, 34: true, 64: true, syscall.SIGWINCH: !terminal,
			9: false, 19: false, 13: false, 17: false, 21: false, 22: false, 23: false, 32: false, 33: false,
		} {
			if slices.Contains(got, os.Signal(sig)) != want {
				t.Errorf("signal %d is passed on (terminal: %v): %v", sig, terminal, !want)
			}
		}
	}
}

func TestNotStarted(t *testing.T) {
	for _, c := range []struct {
		why    string
		runs   bool
		status int
		err    error
	}{
		{"executable file `x` not found in $PATH: No such file or directory", true, 127, nil}, {"open executable: Permission denied", true, 126, nil},
		{"open executable: Operation not permitted", true, 126, nil}, {"No such file or directory", false, 0, errGone}, {"setns: No such process", true, 0, errGone},
	} {
		if status, err := notStarted(c.why, c.runs); status != c.status || !errors.Is(err, c.err) {
			t.Errorf("notStarted(%q, %v) = %d, %v, want %d, %v", c.why, c.runs, status, err, c.status, c.err)
		}
	}
	for why, want := range map[string]string{"": "does not say why", "fork: Cannot allocate memory\n": ": fork: Cannot allocate memory"} {
		if _, err := notStarted(why, true); err == nil || errors.Is(err, errGone) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("notStarted(%q) = %v, want an error that ends in %q", why, err, want)
		}
	}
}

func TestHandOn(t *testing.T) {
	for message, want := range map[string]string{"READY=1": "READY=1", "MAINPID=7\nREADY=1\n": "READY=1", "MAINPID=7": "", "": "", "STATUS=MAINPID=7\n\nX": "STATUS=MAINPID=7\nX"} {
		if got := string(handOn([]byte(message))); got != want {
			t.Errorf("handOn(%q) = %q, want %q", message, got, want)
		}
	}
}

func TestParseStores(t *testing.T) {
	for text, want := range map[string]assemble.Store{
		"overlay\n/a\n{}": {"/a"},
		"overlay\n/a\n{\"overlay.imagestore\": \"/b\", \"overlay.mountopt\": \"x\"}\n":                                            {"/a", "/b"},
		"overlay\n/a\n{\"overlay.imagestore\": \"/c\", \"overlay.additionalImageStores\": [\"/b\", \"/c\", \"no\", 3, \"/\\n\"]}": {"/a", "/b", "/c"},
		"overlay\n/a\n{\"overlay.mount_program\": {\"Executable\": \"/x\"}}":                                                      {"/a"},
	} {
		if got, err := parseStores(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("parseStores(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "overlay", "overlay\na\n{}", "vfs\n/a\n{}", "overlay\n/a\n[]", "overlay\n/a\n"} {
		if got, err := parseStores(text); err == nil {
			t.Errorf("parseStores(%q) = %q, want an error", text, got)
		}
	}
}

func TestParseContainer(t *testing.T) {
	id := strings.Repeat("a", 64)
	if c, ok := parseContainer(id + " running 7\n"); !ok || c != (container{id, true, 7}) {
		t.Errorf("parseContainer = %+v, %v", c, ok)
	}
	for _, text := range []string{"", id, id + " running", "x running 7", id + " running x", id + " running -1", id + " running 7 8"} {
		if c, ok := parseContainer(text); ok {
			t.Errorf("parseContainer(%q) = %+v", text, c)
		}
	}
}

func TestParseState(t *testing.T) {
	whole := `{"pid": 7, "process-start-time": 3, "bundle": "/b", "more": {}}`
	if got := parseState([]byte(whole)); got == nil || *got != (state{7, 3, "/b"}) {
		t.Errorf("parseState(%s) = %+v", whole, got)
	}
	for _, text := range []string{"", "{}", "[]", "null", whole[:30], `{"pid": 1, "process-start-time": 3}`, `{"pid": -7, "process-start-time": 3}`, `{"pid": 7}`, `{"pid": 7, "process-start-time": -1}`, `{"pid": "7", "process-start-time": 3}`} {
		if got := parseState([]byte(text)); got != nil {
			t.Errorf("parseState(%s) = %+v, want nothing", text, got)
		}
	}
}

func TestStartTime(t *testing.T) {
	if startTime(os.Getpid()) == 0 || startTime(0) != 0 || startTime(1<<30) != 0 {
		t.Error("startTime does not tell processes that are there from others")
	}
	tail := " S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 "
	for text, want := range map[string]uint64{
		"7 (a)" + tail + "42 0": 42, "7 (a b) c)" + tail + "42 0": 42, "7 (a)" + strings.Replace(tail, "S", "Z", 1) + "42": 0, "": 0, "7 (a": 0, "7 (a)" + tail: 0, "7 (a)" + tail + "x": 0,
	} {
		if got, ending := parseStat(text); got != want || ending {
			t.Errorf("parseStat(%q) = %d, %v, want %d", text, got, ending, want)
		}
	}
}

// The flags are those of processes as Linux 6 has them.
func TestEnding(t *testing.T) {
	for flags, want := range map[string]bool{"4194560": false, "4194564": true, "4": true, "-4": false} {
		text := "7 (a) S 1 1 1 0 -1 " + flags + " 0 0 0 0 0 0 0 0 20 0 1 0 42"
		if start, ending := parseStat(text); start != 42 || ending != want {
			t.Errorf("parseStat(%q) = %d, %v, want 42, %v", text, start, ending, want)
		}
	}
}

func TestFileNames(t *testing.T) {
	long := strings.Repeat("ü", 90)
	seen := map[string]bool{}
	for _, name := range []string{"a", "a@i", long, long + "x"} {
		j := &job{Options: Options{Dir: "/d"}, Launch: &flake.Launch{Name: flake.ContainerName(name, "i")}}
		got := filepath.Base(j.path(".lock"))
		if len(got) > 255 || !strings.HasPrefix(got, "flake") || seen[got] {
			t.Errorf("the lock of %q is %s", name, got)
		}
		seen[got] = true
	}
}

func TestReadPid(t *testing.T) {
	if !runs(os.Getpid()) || runs(0) || runs(1<<30) {
		t.Error("runs does not tell a process that is there from one that is not")
	}
	file := filepath.Join(t.TempDir(), "pid")
	for text, want := range map[string]int{"": 0, "1": 0, "-5": 0, "x": 0, "7 8": 0, " 7\n": 7, strconv.Itoa(1 << 22): 1 << 22} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readPid(file); got != want {
			t.Errorf("readPid of %q = %d, want %d", text, got, want)
		}
	}
}

// What others write about themselves: no panic, and nothing out of it that is not there.
func FuzzBytes(f *testing.F) {
	f.Add([]byte("overlay\n/a\n{\"overlay.imagestore\": \"/b\"}"))
	f.Add([]byte("7 (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 42"))
	f.Add([]byte("MAINPID=1\nREADY=1"))
	f.Add([]byte(`{"pid": 7, "process-start-time": 3, "bundle": "/b", "process": {"args": ["x"], "env": [1, "TERM=a"]}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		text := string(data)
		if stores, err := parseStores(text); err == nil {
			for _, s := range stores {
				if !filepath.IsAbs(s) {
					t.Errorf("parseStores(%q) has %q", text, s)
				}
			}
		}
		parseStat(text)
		if s := parseState(data); s != nil && (s.Pid <= 1 || s.Start == 0) {
			t.Errorf("parseState(%q) = %+v", data, s)
		}
		if c, ok := parseContainer(text); ok && (!validID(c.id) || c.pid < 0) {
			t.Errorf("parseContainer(%q) = %+v", text, c)
		}
		if out := handOn(data); bytes.HasPrefix(out, []byte("MAINPID=")) || bytes.Contains(out, []byte("\nMAINPID=")) {
			t.Errorf("handOn(%q) = %q", data, out)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &flake.Registration{Name: "app", Container: flake.Container{Name: "img", Target: "/app"}}
		l, err := flake.Decide(r, &flake.Call{}, flake.Situation{Getenv: func(string) string { return "" }, Registry: registrystate.State{OK: true}})
		if err != nil {
			t.Fatal(err)
		}
		j := &job{Launch: l, getenv: func(string) string { return "xterm" }}
		if out, err := j.process(dir); err == nil && !bytes.Contains(out, []byte(`"args":["/app"]`)) {
			t.Errorf("process(%q) = %s", data, out)
		}
	})
}

func TestAlive(t *testing.T) {
	if !Alive(os.Getpid()) || Alive(0) || Alive(-1) || Alive(1<<30) {
		t.Errorf("alive: %v, %v, %v, %v, want this process alone", Alive(os.Getpid()), Alive(0), Alive(-1), Alive(1<<30))
	}
}
