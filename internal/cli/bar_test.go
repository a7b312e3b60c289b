package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestBarOnATerminal(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	p := NewProgress(&Env{Stderr: slave}, false).(*progress)
	if _, ok := p.show.(*bar); !ok {
		t.Fatalf("NewProgress on a terminal shows %T, want *bar", p.show)
	}
	p.Stage("write slot", 100)
	p.Add(150) // more than estimated
	p.Note("note")
	p.Stage("unknown", 0)
	p.Add(1)
	p.Done()
	slave.Close()
	var out bytes.Buffer
	_, _ = out.ReadFrom(master) // ends with an I/O error when the slave is closed
	for _, want := range []string{"write slot: 150 B in", "\rnote", "unknown: 1 B in"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("terminal got %q, want %q in it", out.String(), want)
		}
	}
}

func TestFileIsNoTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := NewProgress(&Env{Stderr: f}, false).(*progress).show.(*lines); !ok {
		t.Error("NewProgress on a file shows a bar, want lines")
	}
}

func TestJSONProgressIsThrottled(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := &progress{now: func() time.Time { return now }, show: &jsonLines{w: &out}}
	p.Stage("s", 0)
	for range 100 { // ten seconds
		now = now.Add(100 * time.Millisecond)
		p.Add(1)
	}
	if got := strings.Count(out.String(), `"progress"`); got != 20 {
		t.Errorf("%d progress lines in 10 s, want 20", got)
	}
}
