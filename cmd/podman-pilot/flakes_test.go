package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ways are the two ways that an application is started in: in a container of its own, and in
// one that stays.
var ways = []string{"plain", "stays"}

// newFlakes has both.
func newFlakes(t *testing.T) *lab {
	l := newLab(t)
	l.flake(t, "plain", "app")
	l.flake(t, "stays", "app", "resume: true")
	return l
}

// An application is a command: its status, its streams, its arguments.
func TestCommand(t *testing.T) {
	l := newFlakes(t)
	l.flake(t, "missing", "app", "target_app_path: /bin/none")
	l.flake(t, "closed", "app", "target_app_path: /bin/closed")
	l.flake(t, "folder", "app", "target_app_path: /etc")
	l.flake(t, "kept.missing", "app", "target_app_path: /bin/none", "resume: true")
	l.flake(t, "kept.closed", "app", "target_app_path: /bin/closed", "resume: true")
	l.flake(t, "kept.folder", "app", "target_app_path: /etc", "resume: true")
	l.flake(t, "entry", "entry", "target_app_path: /")
	l.flake(t, "app", "app", `target_app_path: ""`)
	l.flake(t, "badoption", "app", "podman: [--nonsense]")
	l.flake(t, "badvolume", "app", `podman: ["--volume /none/at/all:/x"]`)
	l.flake(t, "noimage", "localhost/none")
	l.flake(t, "kept.noimage", "localhost/none", "resume: true")
	l.flake(t, "sleepless", "sleepless", "resume: true")
	for _, c := range []struct {
		call        string
		status      int
		out, stderr string
	}{
		{"missing x", 127, "", "/bin/none"}, {"closed x", 126, "", "ermission denied"}, {"folder x", 126, "", "/etc"},
		{"kept.missing x", 127, "", "/bin/none"}, {"kept.closed x", 126, "", "ermission denied"}, {"kept.folder x", 126, "", "not permitted"},
		{"entry", 0, "entry\ncmd\n", ""}, {"entry out=x exit=4", 4, "entry\nx\n", ""}, {"app out=x", 0, "x\n", ""},
		{"badoption", 125, "", "nonsense"}, {"badvolume", 125, "", "/none/at/all"}, {"badvolume %ignore_missing_volume_path out=x", 0, "x\n", ""},
		{"noimage", 125, "", "none"}, {"kept.noimage", 125, "", "none"}, {"sleepless", 125, "", "program sleep"},
	} {
		l.want(t, c.call, c.status, c.out, c.stderr)
	}
	for _, way := range ways {
		for _, status := range []int{0, 1, 2, 124, 125, 126, 127, 128, 130, 255} {
			l.want(t, fmt.Sprint(way, " exit=", status), status, "", "")
		}
		for _, sig := range []syscall.Signal{1, 2, 9, 15} {
			l.want(t, fmt.Sprintf("%s die=%d", way, sig), 128+int(sig), "", "")
		}
		l.want(t, way+" out=a err=b out=c", 0, "a\nc\n", "b\n")
		l.want(t, way+" cat terminal", 0, "false false false\n", "")
		odd := []string{"", " ", "-", "--", "@a/b", "%s", "a\nb", `"`, "'", "$HOME", "\\", "*", "ü", strings.Repeat("x", 100<<10), "--tty", "-t"}
		want := fmt.Sprintf("%q", odd)
		l.wantOf(t, l.call(way, append([]string{"--", "args"}, odd...)...), 0, want+"\n", "")
		l.want(t, way+" %interactive %progress args a -- @b", 0, `["a" "--" "@b"]`+"\n", "")
	}
	l.clear(t)
}

// Streams are the caller's: they are not held back, not mixed, and closed when they are.
func TestStreams(t *testing.T) {
	l := newFlakes(t)
	data := make([]byte, 100<<20)
	_, _ = rand.Read(data)
	for _, way := range ways {
		cmd := l.call(way, "cat")
		cmd.Stdin = bytes.NewReader(data)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%s: of 100 MiB come %d bytes back, %v", way, out.Len(), err)
		}

		// What is said is heard before the end.
		cmd = l.call(way, "forever")
		_ = l.started(t, cmd)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if got := finish(t, cmd); got != 143 {
			t.Errorf("%s: SIGTERM ends it with %d", way, got)
		}

		// Nobody reads any more.
		cmd = l.call(way, "yes")
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pipe, make([]byte, 10)); err != nil {
			t.Error(err)
		}
		pipe.Close()
		if got := finish(t, cmd); got != 141 {
			t.Errorf("%s | head ends with %d, want 141", way, got)
		}

		for shell, want := range map[string]string{
			`"$F" read=1 <&-`: " EOF\n", `"$F" out=x >&-`: "", `"$F" out=x <&- 2>&-`: "x\n", `echo hi | "$F" cat | "$F" cat`: "hi\n",
			`printf 'abc' | { "$F" read=1; cat; }`: "61 <nil>\nbc",
			`"$F" out=x > /dev/full; echo $?`:      "0\n",
		} {
			cmd := l.in("sh", "-c", shell)
			cmd.Env = append(cmd.Env, "F="+filepath.Join(l.dir, "bin", way))
			got := l.run(t, cmd)
			if got.out != want || got.stderr != "" {
				t.Errorf("%s: %s = %+v, want %q", way, shell, got, want)
			}
		}
	}
	l.flake(t, "deaf", "app", "podman: [--network=none]")
	cmd := l.call("deaf", "read=1")
	cmd.Stdin = strings.NewReader("x")
	l.wantOf(t, cmd, 0, " EOF\n", "")
	l.clear(t)
}

// Many calls at once: a container for each, or one for all.
func TestManyAtOnce(t *testing.T) {
	l := newFlakes(t)
	for _, way := range ways {
		var all sync.WaitGroup
		for i := range 50 {
			all.Add(1)
			go func() {
				defer all.Done()
				word := fmt.Sprint("n", i)
				l.wantOf(t, l.call(way, "out="+word, fmt.Sprint("exit=", i)), i, word+"\n", "")
			}()
		}
		all.Wait()
		if way == "plain" {
			l.nothingLeft(t)
		}
	}
	if got := l.podman(t, "ps", "--all", "--format", "{{.Names}} {{.Status}}"); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "flake.stays Up") {
		t.Errorf("containers: %s, want the one of stays", got)
	}
	l.clear(t)
}

// There is one container of a name at a time.
func TestInstances(t *testing.T) {
	l := newFlakes(t)
	l.flake(t, "named", "app", "podman: [-i, --network=none, --name=mine]")
	for _, call := range []string{"plain @one", "named"} {
		words := strings.Fields(call)
		cmd := l.call(words[0], append(words[1:], "forever")...)
		_ = l.started(t, cmd)
		l.want(t, call+" out=x", 125, "", "it is running already\nhint: another @INSTANCE")
		l.want(t, "plain @two out=x", 0, "x\n", "")
		l.want(t, "plain out=x", 0, "x\n", "")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		finish(t, cmd)
		l.want(t, call+" out=x", 0, "x\n", "")
	}
	l.nothingLeft(t)
	l.want(t, "stays @one write=/tmp/x show=/tmp/x", 0, "/tmp/x 100644 0:0 links 1 \"written\"\n", "")
	l.want(t, "stays @two show=/tmp/x", 0, "/tmp/x none\n", "")
	l.want(t, "stays @one show=/tmp/x", 0, "/tmp/x 100644 0:0 links 1 \"written\"\n", "")
	l.want(t, "stays show=/tmp/x %remove", 0, "/tmp/x none\n", "")
	if got := l.podman(t, "ps", "--all", "--format", "{{.Names}}"); got != "flake.stays_.one\nflake.stays_.two\n" {
		t.Errorf("containers: %q", got)
	}
	l.want(t, "plain @scope/pkg", 125, "", "hint: put --")
	l.clear(t)
}

// exitSignals are those that end an application which does not expect them.
var exitSignals = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1}

// A signal at any moment ends the application or not, and leaves nothing.
func TestSignalsAtAnyMoment(t *testing.T) {
	l := newFlakes(t)
	for _, way := range ways {
		for i := range rounds(12) {
			sig := exitSignals[i%len(exitSignals)]
			wait := time.Duration(i) * 300 * time.Millisecond / time.Duration(rounds(12))
			cmd := l.call(way, "sleep=400", "exit=7")
			out, err := os.Create(filepath.Join(l.dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
			_ = cmd.Process.Signal(sig)
			if got := finish(t, cmd); got != 128+int(sig) && got != 7 {
				t.Errorf("%s: %v after %v ends it with %d, %s", way, sig, wait, got, read(t, l.dir, "out"))
			}
		}
		if way == "plain" {
			l.nothingLeft(t)
		}
	}
	l.want(t, "stays out=x", 0, "x\n", "")
	l.clear(t)
}

// What an application catches does not end it, and comes once.
func TestSignalsCaught(t *testing.T) {
	l := newFlakes(t)
	for _, way := range ways {
		cmd := l.call(way, "catch=7", "exit=5")
		out := l.started(t, cmd)
		for _, sig := range []syscall.Signal{1, 2, 3, 10, 12, 15, 28} {
			_ = cmd.Process.Signal(sig)
			if line, err := out.ReadString('\n'); line != fmt.Sprintln(int(sig)) {
				t.Errorf("%s: of signal %d it gets %q, %v", way, sig, line, err)
			}
		}
		if got := finish(t, cmd); got != 5 {
			t.Errorf("%s ends with %d, want its own 5", way, got)
		}
	}
	l.clear(t)
}

// The launcher sees in podman's signals whether it hands them on. A podman that did it in another way would
// delay signals in the first ten seconds of a call.
func TestPodmanHandsOn(t *testing.T) {
	l := newFlakes(t)
	cmd := l.call("plain", "forever")
	_ = l.started(t, cmd)
	start := time.Now()
	catches := func() bool {
		for _, p := range l.processes() {
			if strings.HasPrefix(status(p), "Name:\tpodman\n") {
				_, mask, _ := strings.Cut(status(p), "\nSigCgt:\t")
				mask, _, _ = strings.Cut(mask, "\n")
				n, err := strconv.ParseUint(mask, 16, 64)
				return err == nil && n&(1<<(syscall.SIGTSTP-1)) != 0
			}
		}
		return false
	}
	for !catches() && time.Since(start) < limit {
		time.Sleep(10 * time.Millisecond)
	}
	if !catches() {
		t.Error("podman that hands signals on does not catch SIGTSTP")
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	finish(t, cmd)
	l.nothingLeft(t)
}

// Whoever kills the launcher ends the application, even one that hears no signal, with all
// that it has started.
func TestKilled(t *testing.T) {
	l := newFlakes(t)
	for _, way := range ways {
		for i := range rounds(12) {
			wait := time.Duration(i) * 300 * time.Millisecond / time.Duration(rounds(12))
			cmd := l.call(way, "children=3", "deaf")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if way == "plain" {
			l.nothingLeft(t)
		}
	}
	l.want(t, "stays out=x", 0, "x\n", "")
	l.onlyStays(t)
	l.clear(t)
}

// onlyStays waits until nothing is at work but the containers that stay, and checks for files.
func (l *lab) onlyStays(t *testing.T) {
	t.Helper()
	var bad []string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		bad = nil
		for _, p := range l.processes() {
			if c := commandLine(p); !strings.HasPrefix(c, "/usr/bin/conmon ") && !strings.HasPrefix(c, "/dev/init ") && !strings.HasPrefix(c, "sleep 42949") && !strings.HasPrefix(c, "/run/podman-init") {
				bad = append(bad, fmt.Sprint(p, " ", c))
			}
		}
		if len(bad) == 0 {
			break
		}
	}
	for _, f := range l.files() {
		if !strings.HasSuffix(f, ".lock") && !strings.HasSuffix(f, ".cid") && !strings.HasPrefix(f, "stores-") && !strings.HasPrefix(f, "systemfiles-") {
			bad = append(bad, f)
		}
	}
	if bad != nil {
		t.Errorf("left beside containers that stay: %q", bad)
	}
}

// rounds is how often something is tried that goes wrong rarely: EOS_TEST_ROUNDS times as often
// as usual.
func rounds(n int) int {
	var more int
	if _, err := fmt.Sscan(os.Getenv("EOS_TEST_ROUNDS"), &more); err != nil {
		return n
	}
	return n * more
}

// Whatever is killed below the launcher, nothing stays, and the status is none of success.
func TestKilledBelow(t *testing.T) {
	l := newFlakes(t)
	for _, c := range []struct{ way, victim string }{{"plain", "/usr/bin/podman"}, {"plain", "/usr/bin/conmon"}, {"plain", "/bin/app"}, {"stays", "/usr/bin/crun"}, {"stays", "/bin/app"}} {
		words := []string{"deaf"}
		if c.victim == "/usr/bin/conmon" { // which the application does without
			words = []string{"out=ready", "sleep=2500", "exit=7"}
		}
		cmd := l.call(c.way, words...)
		_ = l.started(t, cmd)
		killed := false
		for _, p := range l.processes() {
			if strings.HasPrefix(commandLine(p), c.victim+" ") && !strings.Contains(commandLine(p), "flake.stays ") {
				killed = syscall.Kill(p, syscall.SIGKILL) == nil
			}
		}
		if !killed {
			t.Errorf("%s: there is no %s", c.way, c.victim)
		}
		if got := finish(t, cmd); got == 0 || c.victim != "/usr/bin/conmon" && got != 137 {
			t.Errorf("%s with %s killed ends with %d", c.way, c.victim, got)
		}
		if c.way == "plain" {
			l.nothingLeft(t)
		}
	}
	l.onlyStays(t)
	l.clear(t)
}

// Job control: the application stands still with the launcher, and goes on with it.
func TestStopped(t *testing.T) {
	l := newFlakes(t)
	for _, way := range ways {
		cmd := l.call(way, "forever")
		_ = l.started(t, cmd)
		_ = cmd.Process.Signal(syscall.SIGTSTP)
		state := func(want string) {
			t.Helper()
			var got string
			for range 300 {
				for _, p := range append(l.processes(), cmd.Process.Pid) {
					if strings.Contains(commandLine(p), "forever") && (strings.HasPrefix(commandLine(p), "/bin/app") || p == cmd.Process.Pid) {
						_, rest, _ := strings.Cut(status(p), "State:\t")
						got += rest[:1]
					}
				}
				if strings.Trim(got, want) == "" && len(got) >= 2 {
					return
				}
				time.Sleep(10 * time.Millisecond)
				got = ""
			}
			t.Errorf("%s: the states are %s, want %s", way, got, want)
		}
		state("T")
		_ = cmd.Process.Signal(syscall.SIGCONT)
		state("SR")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if got := finish(t, cmd); got != 143 {
			t.Errorf("%s ends with %d", way, got)
		}
	}
	l.clear(t)
}
