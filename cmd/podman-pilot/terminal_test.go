package main

import (
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// console is a terminal with somebody at it.
type console struct {
	t        *testing.T
	us, tty  *os.File
	mu       sync.Mutex
	said     strings.Builder
	before   *unix.Termios
	finished chan struct{}
}

func newConsole(t *testing.T) *console {
	t.Helper()
	us, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, us: us, tty: tty, finished: make(chan struct{})}
	if err := pty.Setsize(us, &pty.Winsize{Rows: 33, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	if c.before, err = unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.finished)
		buf := make([]byte, 4096)
		for {
			n, err := us.Read(buf)
			c.mu.Lock()
			c.said.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { us.Close(); tty.Close() })
	return c
}

// wait waits until a text is on the terminal.
func (c *console) wait(text string) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		found := strings.Contains(c.said.String(), text)
		c.mu.Unlock()
		if found {
			return
		}
	}
	c.t.Errorf("the terminal shows %q, want %q", c.said.String(), text)
}

func (c *console) enter(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.us, text); err != nil {
		c.t.Fatal(err)
	}
}

// restored checks that the terminal is as it was, soon.
func (c *console) restored(what string) {
	c.t.Helper()
	var now *unix.Termios
	for range 500 {
		now, _ = unix.IoctlGetTermios(int(c.tty.Fd()), unix.TCGETS)
		if now != nil && *now == *c.before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Errorf("%s: the terminal is left in the modes %+v, want %+v", what, now, c.before)
}

// at gives a call the terminal, as a shell does.
func (l *lab) at(c *console, name string, args ...string) (wait func() int, kill func(syscall.Signal)) {
	c.t.Helper()
	cmd := l.call(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.tty, c.tty, c.tty
	cmd.Env = append(cmd.Env, "TERM=vt102")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return func() int { return finish(c.t, cmd) }, func(s syscall.Signal) { _ = cmd.Process.Signal(s) }
}

// At a terminal an application has one: of its size, with all keys, and afterwards it is what
// it was before, whatever end it came to.
func TestTerminal(t *testing.T) {
	l := newLab(t)
	l.flake(t, "plain", "app", "podman: [-ti, --network=none]")
	l.flake(t, "stays", "app", "resume: true", "podman: [-ti, --network=none]")
	for _, way := range ways {
		c := newConsole(t)
		wait, _ := l.at(c, way, "terminal", "size", "env=TERM", "raw", "read=5", "exit=9")
		c.wait("true true true\r\n33x77\r\nvt102\r\nready")
		c.enter("\x03")
		time.Sleep(20 * time.Millisecond)
		c.enter("\x1a\x10\x11\x1c") // the keys to detach with are none
		c.wait("031a10111c <nil>")
		if got := wait(); got != 9 {
			t.Errorf("%s ends with %d, want 9", way, got)
		}
		c.restored(way)

		c = newConsole(t)
		wait, _ = l.at(c, way, "resized=12x34")
		c.wait("ready")
		if err := pty.Setsize(c.us, &pty.Winsize{Rows: 12, Cols: 34}); err != nil {
			t.Fatal(err)
		}
		c.wait("12x34")
		if got := wait(); got != 0 {
			t.Errorf("%s ends with %d after a change of its size", way, got)
		}

		c = newConsole(t)
		wait, _ = l.at(c, way, "forever")
		c.wait("ready")
		c.enter("\x03") // interrupts it
		if got := wait(); got != 130 {
			t.Errorf("%s: ctrl-C ends it with %d", way, got)
		}
		c.restored(way + " after ctrl-C")

		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
			c = newConsole(t)
			wait, kill := l.at(c, way, "raw", "forever")
			c.wait("ready")
			time.Sleep(50 * time.Millisecond)
			kill(sig)
			if got := wait(); got != 128+int(sig) {
				t.Errorf("%s: %v ends it with %d", way, sig, got)
			}
			c.restored(way + " after " + sig.String())
		}

		// Where only some of the streams are a terminal the application has none.
		c = newConsole(t)
		cmd := l.call(way, "terminal", "out=x")
		cmd.Stdin = c.tty
		l.wantOf(t, cmd, 0, "false false false\nx\n", "")
		cmd = l.call(way, "terminal")
		cmd.Stdout, cmd.Stderr = c.tty, c.tty
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
		c.wait("false false false")
	}
	l.onlyStays(t)
	l.clear(t)
}
