package command_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
)

func sh(script string) command.Cmd { return command.Cmd{Argv: []string{"/bin/sh", "-c", script}} }

func TestOutput(t *testing.T) {
	c := sh(`cat; echo "$GREETING"; pwd; echo noise >&2`)
	c.Stdin = strings.NewReader("in\n")
	c.Env = []string{"GREETING=hello"}
	c.Dir = "/usr"
	got, err := command.Output(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if want := "in\nhello\n/usr\n"; string(got) != want {
		t.Errorf("Output = %q, want %q", got, want)
	}
}

func TestStdinIsEmpty(t *testing.T) {
	got, err := command.Output(t.Context(), sh("cat | wc -c"))
	if err != nil || strings.TrimSpace(string(got)) != "0" {
		t.Errorf("Output = %q, %v, want 0 bytes read", got, err)
	}
}

func TestError(t *testing.T) {
	tests := []struct {
		name, script, text string
		status             int
		signal             syscall.Signal
	}{
		{"status", "echo one >&2; echo two >&2; exit 3", "run sh: exit status 3: two", 3, 0},
		{"silent", "exit 1", "run sh: exit status 1", 1, 0},
		{"carriage return", `printf 'one\r\n' >&2; exit 1`, "run sh: exit status 1: one", 1, 0},
		{"signal", "kill -9 $$", "run sh: ended by signal killed", -1, syscall.SIGKILL},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := command.Run(t.Context(), sh(tt.script))
			var e *command.Error
			if !errors.As(err, &e) {
				t.Fatalf("Run(%q) = %v, want a *command.Error", tt.script, err)
			}
			if e.Error() != tt.text || e.Status != tt.status || e.Signal != tt.signal {
				t.Errorf("Run(%q) = %q status %d signal %d, want %q %d %d", tt.script, e, e.Status, e.Signal, tt.text, tt.status, tt.signal)
			}
		})
	}
}

func TestNotThere(t *testing.T) {
	err := command.Run(t.Context(), command.Cmd{Argv: []string{"eos-no-such-program"}})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Run = %v, want exec.ErrNotFound", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("Run = %q, want one line", err)
	}
	if err := command.Run(t.Context(), command.Cmd{}); err == nil {
		t.Error("Run of nothing = nil, want an error")
	}
}

func TestTailIsBounded(t *testing.T) {
	var all bytes.Buffer
	c := sh("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1")
	c.Stderr = &all
	err := command.Run(t.Context(), c)
	var e *command.Error
	if !errors.As(err, &e) {
		t.Fatalf("Run = %v, want a *command.Error", err)
	}
	if len(e.StderrTail) > 8<<10 || !strings.HasSuffix(e.StderrTail, "line 2999\n") {
		t.Errorf("StderrTail has %d bytes and ends in %q, want the last 8 KiB", len(e.StderrTail), e.StderrTail[len(e.StderrTail)-20:])
	}
	if got := strings.Count(all.String(), "\n"); got != 3000 {
		t.Errorf("Stderr got %d lines, want 3000", got)
	}
}

// What a program has started ends with it: the pipe that all of them hold is closed.
func TestCancelEndsTheGroup(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := sh("sleep 1000 & wait")
	c.Stdout = w
	start := time.Now()
	err = command.Run(ctx, c)
	w.Close()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run = %v, want the context's error", err)
	}
	if took := time.Since(start); took > command.Grace+5*time.Second {
		t.Errorf("Run took %s after the context's end", took)
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a process of the group is left: read of its output = %v, want EOF", err)
	}
}

func TestString(t *testing.T) {
	c := command.Cmd{Argv: []string{"a", "b c", "", "it's", "x=1"}}
	if got, want := c.String(), `a 'b c' '' 'it'\''s' x=1`; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
}
