package vm

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestForward(t *testing.T) {
	for _, tt := range []struct {
		typed, sent string
		left        bool
	}{
		{"", "", false},
		{"ls\r\x03", "ls\r\x03", false},
		{"\x1d", "", true},
		{"ab\x1dcd", "ab", true},
		{"a\x1d\x1db", "a", true},
		{strings.Repeat("x", 5000) + "\x1d", strings.Repeat("x", 5000), true},
	} {
		for name, r := range map[string]io.Reader{
			"at once": strings.NewReader(tt.typed), "key by key": iotest.OneByteReader(strings.NewReader(tt.typed)),
		} {
			var sent bytes.Buffer
			err := forward(&sent, r)
			if left := err == errLeft; left != tt.left || sent.String() != tt.sent {
				t.Errorf("%s: forward(%.20q) sent %.20q, left %v, want %.20q, %v", name, tt.typed, sent.String(), left, tt.sent, tt.left)
			}
		}
	}
}

// TestAttachTerminal uses a real terminal: Ctrl-C has to reach the machine, and the terminal
// has to be as before when the console was left.
func TestAttachTerminal(t *testing.T) {
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	defer terminal.Close()
	before, err := attributes(terminal)
	if err != nil {
		t.Fatal(err)
	}
	ours, guest := net.Pipe()
	defer guest.Close()
	type result struct {
		left bool
		err  error
	}
	done := make(chan result, 1)
	go func() {
		left, err := Attach(t.Context(), ours, terminal, io.Discard)
		done <- result{left, err}
	}()
	// What the guest says is written only when the terminal is raw.
	if _, err := guest.Write([]byte("login: ")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		now, err := attributes(terminal)
		if err != nil {
			t.Fatal(err)
		}
		if now != before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the terminal did not become raw")
		}
	}
	if _, err := keyboard.Write([]byte("root\r\x03\x1dlost")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "root\r\x03" {
		t.Errorf("the guest got %q, %v, want root, Enter and Ctrl-C", got, err)
	}
	if r := <-done; !r.left || r.err != nil {
		t.Errorf("Attach = %v, %v, want true, nil after Ctrl-]", r.left, r.err)
	}
	if after, err := attributes(terminal); err != nil || after != before {
		t.Errorf("the terminal is not as it was before: %v", err)
	}
}

func TestAttachEnds(t *testing.T) {
	ours, guest := net.Pipe()
	var out bytes.Buffer
	go func() {
		guest.Write([]byte("Power down\r\n"))
		guest.Close()
	}()
	// The end of input does not end the console.
	left, err := Attach(t.Context(), ours, strings.NewReader(""), &out)
	if left || err != nil || out.String() != "Power down\r\n" {
		t.Errorf("Attach to a machine that ends = %v, %v with %q, want false, nil and all it said", left, err, out.String())
	}

	ours, guest = net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if left, err := Attach(ctx, ours, strings.NewReader(""), io.Discard); left || err != context.Canceled {
		t.Errorf("Attach under a context that has ended = %v, %v, want false, %v", left, err, context.Canceled)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, tt := range []struct {
		content string
		n       int
		want    string
	}{
		{"", 3, ""},
		{"a", 3, "a"},
		{"a\nb\nc\n", 2, "b\nc\n"},
		{"a\nb\nc", 2, "b\nc"},
		{"a\nb\n", 5, "a\nb\n"},
		{strings.Repeat("x", 100<<10) + "\nlast\n", 1, "last\n"},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tail(f, tt.n); err != nil || string(got) != tt.want {
			t.Errorf("tail(%.20q, %d) = %.20q, %v, want %.20q", tt.content, tt.n, got, err, tt.want)
		}
		f.Close()
	}
}

// attributes returns how a terminal is set.
func attributes(f *os.File) (unix.Termios, error) {
	a, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	return *a, nil
}
