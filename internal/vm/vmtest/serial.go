package vmtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// serial reads along in the file that QEMU writes the serial console to.
type serial struct {
	path string
	from int64 // where the current boot begins
	at   int   // how far Expect has come, in the text since
}

// escapes are colours and cursor moves of firmware, boot loader and shells.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?=]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>])`)

// mark makes Expect look only at what comes from now on.
func (s *serial) mark(path string) {
	s.path, s.from, s.at = path, 0, 0
	if fi, err := os.Stat(path); err == nil {
		s.from = fi.Size()
	}
}

// text returns what was printed since the mark, without escape sequences.
func (s *serial) text() ([]byte, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, s.from, 1<<40))
	if err != nil {
		return nil, err
	}
	b = escapes.ReplaceAll(b, nil)
	return bytes.ReplaceAll(b, []byte("\r"), nil), nil
}

// Expect waits until the console says something that the pattern matches, after what the
// last Expect has found in this boot, and returns the match and its groups. In the pattern ^
// and $ are the ends of a line. It does not wait for a machine that has ended.
func (v *VM) Expect(t testing.TB, pattern string, limit time.Duration) []string {
	t.Helper()
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(Slow(limit))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		over, ended := time.Now().After(deadline), !v.Running()
		text, err := v.serial.text()
		if err != nil {
			t.Fatal(err)
		}
		text = text[min(v.serial.at, len(text)):]
		if m := re.FindSubmatchIndex(text); m != nil {
			v.serial.at += m[1]
			groups := make([]string, len(m)/2)
			for i := range groups {
				if m[2*i] >= 0 {
					groups[i] = string(text[m[2*i]:m[2*i+1]])
				}
			}
			return groups
		}
		if ended {
			t.Fatalf("expect %q on the console: the machine has ended", pattern)
		}
		if over {
			t.Fatalf("expect %q on the console: not within %v", pattern, Slow(limit))
		}
		<-tick.C
	}
}

// Console returns what was printed in this boot, without escape sequences.
func (v *VM) Console(t testing.TB) string {
	t.Helper()
	text, err := v.serial.text()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ConsoleTail returns the last lines of the console, of all boots.
func (v *VM) ConsoleTail(lines int) string {
	all := serial{path: v.path("serial.log")}
	text, err := all.text()
	if err != nil {
		return err.Error()
	}
	list := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(list[max(0, len(list)-lines):], "\n")
}

// Send types on the console, slowly enough for the firmware. A line ends with \r.
func (v *VM) Send(t testing.TB, keys string) {
	t.Helper()
	if v.console == nil {
		conn, err := v.Machine.Console(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		v.console = conn
		// It is read from the log; but unread, it would hold up the guest.
		go io.Copy(io.Discard, conn)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range len(keys) {
		<-tick.C
		if _, err := v.console.Write([]byte{keys[i]}); err != nil {
			t.Fatal(err)
		}
	}
}
