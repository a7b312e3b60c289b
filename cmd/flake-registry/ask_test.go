package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/registry"
)

// terminal is an Env whose standard input is a terminal on which somebody has typed text.
func terminal(t *testing.T, text string) (*cli.Env, *bytes.Buffer) {
	t.Helper()
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close(); tty.Close() })
	if _, err := person.WriteString(text); err != nil {
		t.Fatal(err)
	}
	said := &bytes.Buffer{}
	return &cli.Env{Stdin: tty, Stderr: said}, said
}

func wantRefused(t *testing.T, what string, err error, words string) {
	t.Helper()
	var e *cli.Error
	if !errors.As(err, &e) || e.Code != cli.Refused || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v, want it refused with %q", what, err, words)
	}
}

func TestAsk(t *testing.T) {
	for answer, agreed := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "yup\n": false} {
		env, said := terminal(t, answer)
		err := ask(env, false, "all data on /dev/x will be lost")
		if agreed && err != nil {
			t.Errorf("answer %q: %v", answer, err)
		} else if !agreed {
			wantRefused(t, answer, err, "nothing was changed")
		}
		if !strings.HasPrefix(said.String(), "all data on /dev/x will be lost. Go on?") {
			t.Errorf("question: %q", said)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	wantRefused(t, "without a terminal", ask(&cli.Env{Stdin: null}, false, "x"), "nobody has agreed")
	wantRefused(t, "from a pipe", ask(&cli.Env{Stdin: strings.NewReader("y\n")}, false, "x"), "nobody has agreed")
	if err := ask(&cli.Env{Stdin: null}, true, "x"); err != nil {
		t.Errorf("with --yes: %v", err)
	}
}

func TestReadKey(t *testing.T) {
	env, said := terminal(t, "the-key\n")
	if got, err := readKey(env); err != nil || got != "the-key" || strings.Contains(said.String(), "the-key") {
		t.Errorf("readKey from a terminal = %q, %v, said %q", got, err, said)
	}
	if got, err := readKey(&cli.Env{Stdin: strings.NewReader("  the-key \nmore")}); err != nil || got != "the-key" {
		t.Errorf("readKey from a pipe = %q, %v", got, err)
	}
	if _, err := readKey(&cli.Env{Stdin: strings.NewReader("\n")}); err == nil {
		t.Error("readKey of nothing: no error")
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		code cli.Code
	}{{registry.ErrBusy, cli.Locked}, {registry.ErrRefused, cli.Refused}} {
		var e *cli.Error
		if err := explain(c.err); !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("explain(%v) = %v, want exit code %d", c.err, err, c.code)
		}
	}
	if err := explain(nil); err != nil {
		t.Errorf("explain(nil) = %v", err)
	}
}
