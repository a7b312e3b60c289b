package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/launch"
)

const registration = `container:
  name: img
  host_app_path: /usr/bin/app
  target_app_path: /app
  runtime: {runas: root, podman: [-i]}
`

// calling is a system that has the flakes app, of the registry, shipped, and own, of a user.
type calling struct {
	t      *testing.T
	at     place
	what   launch.Options
	status int
	err    error
}

func newCalling(t *testing.T) *calling {
	t.Helper()
	dir := t.TempDir()
	c := &calling{t: t, at: place{config: dir + "/flakes.yml", dir: dir + "/flakes", shipped: dir + "/shipped", registry: dir + "/registry.json"}}
	c.at.launch = func(_ context.Context, o launch.Options) (int, error) { c.what = o; return c.status, c.err }
	ofUser := strings.Replace(registration, "root", "any", 1)
	for path, text := range map[string]string{
		"really/app.yaml": registration, "shipped/shipped.yaml": registration, "really/bad.yaml": "container: {nmae: x}",
		"really/any.yaml": ofUser, "registry.json": `{"state": "ok"}`, "flakes.yml": "---\ngeneric:\n  host_paths: [/usr/lib]\n",
		"home/.config/flakes.yml": "generic: {flakes_dir: " + dir + "/own, podman_storage_conf: /conf}", "own/own.yaml": ofUser, "own/app.yaml": "x",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("really", c.at.dir); err != nil { // as on a device, where it leads into the registry
		t.Fatal(err)
	}
	return c
}

// call runs the program and returns its status and all that it says.
func (c *calling) call(called string, args ...string) (int, string) {
	c.t.Helper()
	c.what = launch.Options{}
	var out bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Args: args, Getenv: os.Getenv}
	code := cli.RunEnv(filepath.Base(called), env, func(ctx context.Context, env *cli.Env) error { return run(ctx, env, called, c.at) })
	return code, out.String()
}

func TestRun(t *testing.T) {
	c := newCalling(t)
	c.status = 42
	for _, x := range []struct {
		name, args string
		code       int
		text       string
	}{
		{"/usr/bin/app", "a @one -- @b", 42, ""},
		{"shipped", "x", 42, ""},
		{"any", "", 42, ""},
		{"app", "%s", 125, "hint: put -- before"},
		{"none", "", 125, `none: find flake "none": it is not registered` + "\nhint: flake-ctl list"},
		{"own", "", 125, "not registered"}, // it is another user's
		{"bad", "", 125, "bad.yaml:1: container.nmae: unknown key"},
		{"podman-pilot", "--help", 0, "Usage: FLAKE"},
		{"podman-pilot", "run", 2, "called by its own name"},
		{"..", "", 125, "not the name of a flake"},
	} {
		code, text := c.call(x.name, strings.Fields(x.args)...)
		if code != x.code || !strings.Contains(text, x.text) || x.text == "" && text != "" {
			t.Errorf("%s %s = %d, %q, want %d, %q", x.name, x.args, code, text, x.code, x.text)
		}
		if got := c.what.Registration; (x.code == 42) != (got != nil) || got != nil && (got.Name != filepath.Base(x.name) || !c.what.Registry.OK) {
			t.Errorf("%s: starts %+v", x.name, got)
		}
	}
	c.call("app", "a", "@one", "--", "@b")
	if got := fmt.Sprint(c.what.Call.Instance, c.what.Call.Args, c.what.HostPaths); got != "one[a -- @b] [/usr/lib]" {
		t.Errorf("app a @one -- @b = %s", got)
	}
}

// A user has the system's flakes that are not root's, and his own.
func TestRunOfUser(t *testing.T) {
	c := newCalling(t)
	dir, err := launch.Dir()
	if err != nil {
		t.Fatal(err)
	}
	c.at.euid, c.at.home = 1000, filepath.Dir(c.at.dir)+"/home"
	for name, want := range map[string]string{"own": "", "any": "", "app": "start flake app: it runs as root\nhint: call it as root: sudo app\n"} {
		code, text := c.call(name)
		if !strings.HasSuffix(text, want) || (code == 0) != (want == "") || want == "" && (text != "" || c.what.StorageConf != "/conf" || c.what.Dir != dir) {
			t.Errorf("%s = %d, %q, %+v, want %q", name, code, text, c.what, want)
		}
	}
}

func TestHints(t *testing.T) {
	c := newCalling(t)
	if err := os.WriteFile(c.at.registry, []byte(`{"state": "degraded", "problem": "no TPM"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	c.call("app")
	if c.what.Registry.OK || c.what.Registry.Reason != "no TPM" {
		t.Errorf("app without a registry is started with %+v", c.what.Registry)
	}
	for err, want := range map[error]string{
		flake.ErrNoRegistry: "flake-registry --status", launch.ErrBusy: "another @INSTANCE",
	} {
		c.err = err
		if code, text := c.call("app"); code != 125 || !strings.Contains(text, "hint: "+want) {
			t.Errorf("app with %v = %d, %q, want the hint %q", err, code, text, want)
		}
	}
}

// What is said on the command line is on the manual page.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/podman-pilot.8")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`%[a-z_]+`).FindAllString(usage, -1)
	if len(found) < 5 {
		t.Errorf("the usage has %q, want the launcher's options", found)
	}
	for _, word := range append(found, "PILOT_DEBUG", "host_paths", "base_container", "/run/flakes/0") {
		if !strings.Contains(string(page), word) {
			t.Errorf("podman-pilot.8 does not have %s", word)
		}
	}
}
