// Package command runs other programs: with a context, with the end of what they said on
// standard error kept, and with an error that fits on one line.
//
// [Run] streams standard output to [Cmd.Stdout], [Output] returns it. Both return an
// [*Error] that carries the argument vector, the exit status and the tail of standard
// error, or the context's error when that is why the program ended.
//
// Programs never get a shell between them and us: there is nothing to quote. Standard input
// is empty unless [Cmd.Stdin] says otherwise. A program runs in a process group of its own
// (see [Cmd.Terminal]) and the whole group is ended with the context, first by SIGTERM, after
// [Grace] by SIGKILL.
//
// The package keeps no state; all of it may be used by several goroutines at once. It
// imports only the standard library.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Grace is how long a program has to end by itself when the context is over.
const Grace = 5 * time.Second

// tailSize is how much of standard error is kept for the error text.
const tailSize = 8 << 10

// maxOutput bounds what [Output] keeps in memory.
const maxOutput = 64 << 20

// Cmd is a program to run.
type Cmd struct {
	Argv   []string
	Dir    string   // working directory; empty: ours
	Env    []string // KEY=VALUE, added to our own environment; the last of a key wins
	Stdin  io.Reader
	Stdout io.Writer  // nil: discarded
	Stderr io.Writer  // gets a copy of standard error; nil: only the tail is kept
	Files  []*os.File // descriptors 3 and up of the program
	// Terminal keeps the program in our process group, so that it may read the terminal. At
	// the end of the context only the program itself is then ended.
	Terminal bool
}

// String returns the command line for people, quoted where a shell would need it.
func (c Cmd) String() string { return quote(c.Argv) }

// Run runs the program to its end.
func Run(ctx context.Context, c Cmd) error {
	if len(c.Argv) == 0 {
		return errors.New("internal error: command without arguments")
	}
	var tail tailBuffer
	var stderr io.Writer = &tail
	if c.Stderr != nil {
		stderr = io.MultiWriter(&tail, c.Stderr)
	}
	x := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	x.Dir, x.Stdin, x.Stdout, x.Stderr, x.ExtraFiles = c.Dir, c.Stdin, c.Stdout, stderr, c.Files
	if len(c.Env) > 0 {
		x.Env = append(x.Environ(), c.Env...)
	}
	end := func(sig syscall.Signal) error { return syscall.Kill(-x.Process.Pid, sig) }
	if c.Terminal {
		end = func(sig syscall.Signal) error { return syscall.Kill(x.Process.Pid, sig) }
	} else {
		x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	x.Cancel = func() error { return end(syscall.SIGTERM) }
	x.WaitDelay = Grace

	err := x.Run()
	if ctx.Err() != nil && err != nil {
		if x.Process != nil && !c.Terminal {
			// WaitDelay kills only the child; what it started must not stay behind.
			_ = end(syscall.SIGKILL)
		}
		return fmt.Errorf("run %s: %w", name(c.Argv), context.Cause(ctx))
	}
	if err == nil {
		return nil
	}
	e := &Error{Argv: c.Argv, Status: -1, StderrTail: tail.String(), err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e.Status = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.Signal = ws.Signal()
		}
	}
	return e
}

// Output runs the program and returns what it wrote to standard output, at most 64 MiB.
func Output(ctx context.Context, c Cmd) ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("internal error: command.Output with Stdout set")
	}
	out := &limited{max: maxOutput}
	c.Stdout = out
	if err := Run(ctx, c); err != nil {
		return nil, err
	}
	if out.over {
		return nil, fmt.Errorf("run %s: more than %d bytes of output", name(c.Argv), maxOutput)
	}
	return out.Bytes(), nil
}

// Error says that a program could not be run, or ended with a status other than 0.
type Error struct {
	Argv       []string
	Status     int            // exit status; -1 when it did not start or a signal ended it
	Signal     syscall.Signal // what ended it; 0: it ended by itself
	StderrTail string         // the last 8 KiB of standard error
	err        error
}

// Error returns one line: the program, how it ended, and its last line of standard error.
func (e *Error) Error() string {
	var how string
	switch {
	case e.Signal != 0:
		how = "ended by signal " + e.Signal.String()
	case e.Status >= 0:
		how = fmt.Sprintf("exit status %d", e.Status)
	default:
		how = e.err.Error()
	}
	if last := e.lastLine(); last != "" {
		how += ": " + last
	}
	return fmt.Sprintf("run %s: %s", name(e.Argv), how)
}

// Unwrap returns the error of os/exec, so that errors.Is finds exec.ErrNotFound.
func (e *Error) Unwrap() error { return e.err }

func (e *Error) lastLine() string {
	all := strings.Split(strings.TrimSpace(e.StderrTail), "\n")
	return strings.TrimSpace(strings.TrimSuffix(all[len(all)-1], "\r"))
}

func name(argv []string) string {
	if len(argv) == 0 {
		return "nothing"
	}
	return filepath.Base(argv[0])
}

// tailBuffer keeps the last tailSize bytes written to it.
type tailBuffer struct{ b []byte }

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return strings.ToValidUTF8(string(t.b), "?") }

// limited keeps at most max bytes and remembers that there were more. It accepts them all,
// so that the program does not end with SIGPIPE, which would hide the reason.
type limited struct {
	bytes.Buffer
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.max {
		l.over = true
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

func quote(argv []string) string {
	var out []string
	for _, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$`&|;<>()*?[]{}~#!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}
