package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/OSInside/eos/internal/cli"
)

const registration = `container:
  name: img
  host_app_path: /usr/bin/app
  target_app_path: /app
  runtime: {runas: root, podman: [-i]}
`

// calling is a system that has the flakes app, of the registry, and shipped.
type calling struct {
	t    *testing.T
	at   place
	argv []string
}

func newCalling(t *testing.T) *calling {
	t.Helper()
	dir := t.TempDir()
	c := &calling{t: t, at: place{dir: dir + "/flakes", shipped: dir + "/shipped", registry: dir + "/registry.json"}}
	c.at.exec = func(argv []string) error { c.argv = argv; return errors.New("not run") }
	for path, text := range map[string]string{
		"flakes/app.yaml": registration, "shipped/shipped.yaml": registration, "flakes/bad.yaml": "container: {nmae: x}",
		"flakes/stay.yaml": strings.Replace(registration, "podman", "resume: true, podman", 1), "registry.json": `{"state": "ok"}`,
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// call runs the program and returns its status, its errors and what it would have become.
func (c *calling) call(called string, args ...string) (int, string, string) {
	c.t.Helper()
	c.argv = nil
	var out, stderr bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Args: args, Getenv: os.Getenv}
	code := cli.RunEnv(filepath.Base(called), env, func(_ context.Context, env *cli.Env) error { return run(env, called, c.at) })
	return code, out.String() + stderr.String(), strings.Join(c.argv, " ")
}

func TestRun(t *testing.T) {
	c := newCalling(t)
	for _, x := range []struct {
		name, args string
		code       cli.Code
		argv, text string
	}{
		{"/usr/bin/app", "a @one -- @b", cli.NotStarted, "/usr/bin/podman run --rm --pull=missing --label eos.flake=app --label eos.instance=one --name app.one -i --entrypoint /app img a -- @b", "run /usr/bin/podman: not run"},
		{"shipped", "x", cli.NotStarted, "/usr/bin/podman run --rm --pull=never --label eos.flake=shipped -i --entrypoint /app img x", ""},
		{"app", "%s", cli.NotStarted, "", "hint: put -- before"},
		{"none", "", cli.NotStarted, "", `none: find flake "none": it is not registered`},
		{"bad", "", cli.NotStarted, "", "bad.yaml:1: container.nmae: unknown key"},
		{"stay", "", cli.NotStarted, "", "container.runtime.resume is not supported yet"},
		{"podman-pilot", "--help", cli.OK, "", "Usage: FLAKE"},
		{"podman-pilot", "run", cli.Usage, "", "called by its own name"},
	} {
		code, text, argv := c.call(x.name, strings.Fields(x.args)...)
		if code != int(x.code) || argv != x.argv || !strings.Contains(text, x.text) {
			t.Errorf("%s %s = %d, %q, becomes %q, want %d, %q, %q", x.name, x.args, code, text, argv, x.code, x.text, x.argv)
		}
	}

	c.at.euid = 1000
	if _, _, argv := c.call("/usr/bin/app", "a", "@one"); argv != "/usr/bin/sudo -- /usr/bin/app a @one" {
		t.Errorf("a root flake of a user becomes %q, want sudo of itself", argv)
	}
	c.at.euid = 0
	if err := os.WriteFile(c.at.registry, []byte(`{"state": "degraded", "problem": "no TPM"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	code, text, argv := c.call("app")
	if code != int(cli.NotStarted) || argv != "" || text != "app: start flake app: the registry is not there (no TPM)\nhint: flake-registry --status says what is wrong and what to do\n" {
		t.Errorf("app without a registry = %d, %q, becomes %q", code, text, argv)
	}
	if _, _, argv := c.call("shipped"); !strings.Contains(argv, "--root /run/eos/flakes/storage") {
		t.Errorf("shipped without a registry becomes %q, want a store in memory", argv)
	}
}

// TestBecomesPodman runs the program: its standard streams, its arguments, its status and the
// signals it gets are those of what it becomes.
func TestBecomesPodman(t *testing.T) {
	if os.Getenv("PILOT_TEST_EXEC") == "1" {
		c := newCalling(t)
		c.at.exec = func(argv []string) error {
			return syscall.Exec("/bin/sh", append([]string{"sh", "-c", `cat; echo "$@"; echo said >&2; kill -TERM $$`}, argv...), os.Environ())
		}
		c.call("app", "x", "y z")
		t.Fatal("still here")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestBecomesPodman$")
	cmd.Env = append(os.Environ(), "PILOT_TEST_EXEC=1", "TMPDIR="+t.TempDir())
	cmd.Stdin = strings.NewReader("in\n")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("status %v, want the end by SIGTERM: %s", err, stderr.String())
	}
	if out.String() != "in\nrun --rm --pull=missing --label eos.flake=app -i --entrypoint /app img x y z\n" || stderr.String() != "said\n" {
		t.Errorf("output %q, %q", out.String(), stderr.String())
	}
}
