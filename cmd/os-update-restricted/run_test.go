package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve/restricted"
	"github.com/OSInside/eos/internal/serve/restricted/restrictedtest"
)

// TestEveryOptionIsNamed keeps help and manual page complete.
func TestEveryOptionIsNamed(t *testing.T) {
	source, err := os.ReadFile("run.go")
	if err != nil {
		t.Fatal(err)
	}
	man, err := os.ReadFile("../../docs/man/os-update-restricted.8")
	if err != nil {
		t.Fatal(err)
	}
	options := regexp.MustCompile(`fs\.\w+Var\([^,]+, "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(options) != 3 {
		t.Fatalf("%d options found, want 3", len(options))
	}
	for _, o := range options {
		if !strings.Contains(usage, "--"+o[1]+" ") {
			t.Errorf("--help lacks --%s", o[1])
		}
		if !strings.Contains(string(man), `\-\-`+o[1]) {
			t.Errorf("the manual page lacks --%s", o[1])
		}
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, c := range []struct {
		args    []string
		command string
		code    int
		text    string
	}{
		{[]string{"--help"}, "", 0, ""},
		{[]string{"--nonsense"}, "", 2, "hint: os-update-restricted --help"},
		{[]string{"repo"}, "", 2, "unexpected argument"},
		{[]string{"--log", filepath.Join(dir, "none", "log")}, "id", 1, "open log"},
		{[]string{"--log", log}, "sudo cat /etc/shadow", 4, "this key reads updates and does nothing else"},
		{[]string{"--log", log}, strings.Repeat("x", 1<<20), 4, "this key reads updates"},
	} {
		var out, stderr bytes.Buffer
		env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Args: c.args, Getenv: func(name string) string {
			return map[string]string{"SSH_ORIGINAL_COMMAND": c.command, "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}[name]
		}}
		if code := cli.RunEnv("os-update-restricted", env, Main); code != c.code || !strings.Contains(stderr.String(), c.text) {
			t.Errorf("%v, command %.40q: status %d, %s; want %d, %q", c.args, c.command, code, stderr.String(), c.code, c.text)
		}
		if stderr.Len() > 2048 {
			t.Errorf("%v: an error of %d bytes", c.args, stderr.Len())
		}
	}
	b, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(b), `msg=refused connection="192.0.2.1 1 192.0.2.2 22" user="" command="sudo cat /etc/shadow"`) {
		t.Errorf("log: %s, %v", b, err)
	}
	if len(b) > 4096 {
		t.Errorf("a log of %d bytes for two refusals", len(b))
	}
}

// TestRefused gives the program every request that it must refuse: status 4, nothing on standard output,
// one line that says so and one in the log, and no file of the server in either.
func TestRefused(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	n := 0
	for _, command := range restrictedtest.Attacks() {
		if command == "" {
			continue // for the program that is no command, which means HTTP
		}
		n++
		var out, stderr bytes.Buffer
		env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Args: []string{"--log", log}, Getenv: func(name string) string {
			return map[string]string{"SSH_ORIGINAL_COMMAND": command}[name]
		}}
		code := cli.RunEnv("os-update-restricted", env, Main)
		if code != int(cli.Refused) || out.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), restricted.ErrRefused.Error()) {
			t.Errorf("%.80q: status %d, %q, %q; want %d and that it is refused", command, code, out.String(), stderr.String(), cli.Refused)
		}
	}
	b, err := os.ReadFile(log)
	if got := strings.Count(string(b), "msg=refused"); err != nil || got != n || strings.Count(string(b), "\n") != n || n < 200 {
		t.Errorf("%d of %d refusals in the log, %d lines, %v; want at least 200, a line each", got, n, strings.Count(string(b), "\n"), err)
	}
}
