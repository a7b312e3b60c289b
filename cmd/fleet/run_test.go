package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/fleet"
)

// TestEveryOptionIsNamed keeps help, manual page and completion complete.
func TestEveryOptionIsNamed(t *testing.T) {
	var texts []string
	for _, path := range []string{"run.go", "../../docs/man/fleet.8", "../../os/fleet/usr/share/bash-completion/completions/fleet"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	options := regexp.MustCompile(`fs\.\w+Var\([^,]+, "([a-z-]+)"`).FindAllStringSubmatch(texts[0], -1)
	if len(options) != 7 {
		t.Fatalf("%d options found, want 7", len(options))
	}
	for _, o := range options {
		if !strings.Contains(usage, "  --"+o[1]+" ") {
			t.Errorf("--help lacks --%s", o[1])
		}
		if !strings.Contains(texts[1], `\-\-`+o[1]) {
			t.Errorf("the manual page lacks --%s", o[1])
		}
		if !slices.Contains(strings.Fields(strings.ReplaceAll(texts[2], `"`, " ")), "--"+o[1]) {
			t.Errorf("the completion lacks --%s", o[1])
		}
	}
}

// TestCompletion asks bash.
func TestCompletion(t *testing.T) {
	for words, want := range map[string]string{"--e": "--enroll", "--enroll --send h": "", "--enroll --n": "--new"} {
		script := `source ../../os/fleet/usr/share/bash-completion/completions/fleet
			COMP_WORDS=(fleet ` + words + `) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_fleet; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", "-c", script).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("completion of %q = %q, %v, want %q", words, got, err, want)
		}
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	d := &fleet.Device{
		State: dir + "/state", Shared: dir + "/shared", Key: dir + "/id_fleet", Registry: dir + "/registry.json",
	}
	if err := os.WriteFile(d.Registry, []byte(`{"state": "ok"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args string) (int, string, string) {
		var out, stderr bytes.Buffer
		env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr, Args: strings.Fields(args), Getenv: os.Getenv}
		code := cli.RunEnv("fleet", env, func(ctx context.Context, env *cli.Env) error { return run(ctx, env, d) })
		return code, out.String(), stderr.String()
	}
	for _, c := range []struct {
		args           string
		code           cli.Code
		stdout, stderr string
	}{
		{"--help", cli.OK, "Usage: fleet", ""},
		{"", cli.Usage, "", "give one of --getkey and --enroll"},
		{"--getkey --enroll", cli.Usage, "", "give one of"},
		{"--getkey --new", cli.Usage, "", "go with --enroll"},
		{"--enroll --insecure", cli.Usage, "", "goes with --send"},
		{"--enroll --send http://h/", cli.Usage, "", "hint: want an https URL"},
		{"--enroll now", cli.Usage, "", `unexpected argument "now"`},
		{"--frobnicate", cli.Usage, "", "hint: fleet --help"},
		{"--getkey", cli.Nothing, "", "hint: make one with fleet --enroll"},
		{"--getkey --json", cli.Nothing, "", `"code":3`},
		{"--enroll", cli.OK, "restrict ssh-ed25519 ", "fleet: made a key"},
		{"--enroll --json", cli.OK, `"made": false`, ""},
		{"--enroll --new --transient", cli.OK, "restrict ssh-ed25519 ", "fleet: made a key"},
		{"--getkey", cli.OK, "", "fleet: this device's own key is in " + d.Key},
		{"--getkey --json", cli.OK, `"source": "device"`, ""},
	} {
		code, stdout, stderr := call(c.args)
		if code != int(c.code) || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("fleet %s = %d, %q, %q, want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
		if strings.Contains(c.args, "--json") && code == 0 && (!json.Valid([]byte(stdout)) || stderr != "") {
			t.Errorf("fleet %s = %q, %q, want JSON alone", c.args, stdout, stderr)
		}
	}
	private, err := os.ReadFile(filepath.Join(dir, "state", "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	// The shared key alone, and then beside a damaged one.
	for _, path := range []string{d.Shared, d.State + "/id_ed25519"} {
		if err := os.WriteFile(path, private, 0o600); err != nil {
			t.Fatal(err)
		}
		private = []byte("damaged")
	}
	if code, _, stderr := call("--getkey"); code != 0 || !strings.Contains(stderr, "not an ssh private key; taking the key of the image") || !strings.Contains(stderr, "which all its devices share") {
		t.Errorf("fleet --getkey with a damaged key = %d, %q", code, stderr)
	}
	os.Remove(d.Registry)
	if code, _, stderr := call("--enroll"); code != int(cli.Degraded) || !strings.Contains(stderr, "hint: flake-registry --status") {
		t.Errorf("fleet --enroll without a registry = %d, %q", code, stderr)
	}
}
