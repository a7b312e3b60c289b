package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/OSInside/eos/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"eos": main})
}

func TestScripts(t *testing.T) {
	const dir = "testdata/script"
	if found, err := filepath.Glob(dir + "/*.txtar"); err != nil || len(found) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("EOS_CACHE", filepath.Join(e.WorkDir, "cache"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status N PROGRAM ARGS... runs a program and wants the exit status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGS...")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		if _, n, ok := strings.Cut(err.Error(), "exit status "); ok {
			got = n
		} else {
			ts.Fatalf("%v", err)
		}
	}
	if got != args[0] {
		ts.Fatalf("exit status of %s = %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func testEnv(args ...string) (*cli.Env, *bytes.Buffer) {
	var out bytes.Buffer
	return &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Args: args, Getenv: func(string) string { return "" }}, &out
}

// eachCommand calls f for all commands that can be run.
func eachCommand(c *cobra.Command, f func(c *cobra.Command)) {
	for _, sub := range c.Commands() {
		eachCommand(sub, f)
	}
	f(c)
}

// The help of each command names all its flags, ends with the exit status and has examples
// that begin with the command itself.
func TestHelp(t *testing.T) {
	env, _ := testEnv()
	n := 0
	eachCommand(newRootCommand(env), func(c *cobra.Command) {
		if c.Name() == "help" {
			return
		}
		n++
		path := strings.Fields(c.CommandPath())
		env, out := testEnv(append(path[1:], "--help")...)
		if err := run(context.Background(), env); err != nil {
			t.Errorf("%s --help = %v", c.CommandPath(), err)
		}
		help := out.String()
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(help, "--"+f.Name) {
				t.Errorf("%s --help does not name --%s", c.CommandPath(), f.Name)
			}
			if f.Usage == "" {
				t.Errorf("%s --%s has no description", c.CommandPath(), f.Name)
			}
		})
		_, exits, ok := strings.Cut(help, "\nExit status:\n  0   ok\n")
		if !ok || !strings.HasSuffix(exits, "\n") || strings.Contains(exits, "\n\n") {
			t.Errorf("%s --help does not end with the exit status:\n%s", c.CommandPath(), help)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s has the summary %q, want one without a full stop", c.CommandPath(), c.Short)
		}
		if got := strings.Count(c.Example, "eos "); got < 2 {
			t.Errorf("%s has %d examples, want 2", c.CommandPath(), got)
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len(line) > 100 {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), len(line), line)
			}
		}
	})
	if n < 5 {
		t.Errorf("%d commands seen, want at least 5", n)
	}
}

// A wrong command line is found before anything is done, and says where help is.
func TestUsageErrors(t *testing.T) {
	env, _ := testEnv()
	eachCommand(newRootCommand(env), func(c *cobra.Command) {
		if c.Name() == "help" {
			return
		}
		env, out := testEnv(append(strings.Fields(c.CommandPath())[1:], "--no-such-flag")...)
		code := cli.RunEnv("eos", env, run)
		want := "eos: unknown flag: --no-such-flag\nhint: see " + c.CommandPath() + " --help\n"
		if code != int(cli.Usage) || out.String() != want {
			t.Errorf("%s --no-such-flag = %d %q, want 2 %q", c.CommandPath(), code, out.String(), want)
		}
	})
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	env, out := testEnv("man", dir)
	if code := cli.RunEnv("eos", env, run); code != 0 {
		t.Fatalf("eos man = %d %s", code, out)
	}
	eachCommand(newRootCommand(env), func(c *cobra.Command) {
		if !c.IsAvailableCommand() && c.HasParent() || c.Name() == "help" {
			return
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("man page: %v", err)
			return
		}
		for _, want := range []string{".SH NAME", ".SH EXIT STATUS", ".SH EXAMPLE"} {
			if !bytes.Contains(page, []byte(want)) {
				t.Errorf("%s has no %s", name, want)
			}
		}
	})
}
