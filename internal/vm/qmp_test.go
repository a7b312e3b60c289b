package vm_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/vm"
)

const greeting = `{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}` + "\n"

// answer plays QEMU: it says hello and then, for each line it gets, the next of the answers.
// It returns the lines it got.
func answer(t *testing.T, hello string, answers ...string) (net.Conn, <-chan []string) {
	ours, theirs := net.Pipe()
	got := make(chan []string, 1)
	go func() {
		var lines []string
		theirs.Write([]byte(hello))
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			lines = append(lines, in.Text())
			if len(answers) == 0 {
				continue // as a QEMU that hangs
			}
			theirs.Write([]byte(answers[0]))
			answers = answers[1:]
		}
		got <- lines
	}()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, got
}

func TestQMP(t *testing.T) {
	conn, got := answer(t, greeting,
		`{"return": {}}`,
		`{"timestamp": {"seconds": 1}, "event": "STOP"}`+"\n"+`{"return": {"status": "paused"}}`,
		`{"error": {"class": "GenericError", "desc": "no such thing"}}`)
	q, err := vm.NewQMP(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	var is struct{ Status string }
	if err := q.Do(t.Context(), "query-status", nil, &is); err != nil || is.Status != "paused" {
		t.Errorf("query-status = %q, %v, want paused", is.Status, err)
	}
	err = q.Do(t.Context(), "set_link", map[string]any{"name": "net", "up": false}, nil)
	var refused *vm.QMPError
	if !errors.As(err, &refused) || err.Error() != "qemu set_link: no such thing" {
		t.Errorf("set_link = %v, want qemu set_link: no such thing", err)
	}
	q.Close()
	want := `{"execute":"qmp_capabilities"} {"execute":"query-status"} {"execute":"set_link","arguments":{"name":"net","up":false}}`
	if said := strings.Join(<-got, " "); said != want {
		t.Errorf("QEMU was told %s, want %s", said, want)
	}
}

func TestQMPBadPeer(t *testing.T) {
	for _, tt := range []struct{ hello, want string }{
		{`{"return": {}}`, "not a QMP socket"},
		{"SSH-2.0-x\n", "read greeting"},
		{greeting + `{}`, "neither result nor error"},
	} {
		conn, _ := answer(t, tt.hello)
		if _, err := vm.NewQMP(t.Context(), conn); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewQMP on a peer that says %q = %v, want %q in it", tt.hello, err, tt.want)
		}
	}
}

// A QEMU that hangs does not take us with it.
func TestQMPContext(t *testing.T) {
	conn, _ := answer(t, greeting, `{"return": {}}`)
	q, err := vm.NewQMP(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := q.Do(ctx, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Do on a QEMU that hangs = %v, want %v", err, context.DeadlineExceeded)
	}
}
