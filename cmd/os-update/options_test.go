package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/update"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ args, action, err string }{
		{"--check", "check", ""},
		{"-check", "check", ""},
		{"--check --json --server https://h --pkey k --read x", "check", ""},
		{"--apply --download-only --version 2 --allow-downgrade --limit-rate 1MiB --dry-run", "apply", ""},
		{"--apply --activate reboot", "apply", ""},
		{"--apply --read NAME --server s --pkey k", "apply", ""}, // not a dump to standard output
		{"--commit", "commit", ""},
		{"--commit --reboot", "commit", ""},
		{"--confirm --json", "confirm", ""},
		{"--rollback --reboot", "rollback", ""},
		{"--reboot", "reboot", ""},
		{"--firmware --json --dry-run --allow-downgrade", "firmware", ""},
		{"--firmware --apply", "", "cannot be combined"},
		{"--firmware --server x", "", "--server does not go with --firmware"},
		{"--firmware --reboot", "", "--reboot does not go with --firmware"},
		{"--boot-failed", "boot-failed", ""},
		{"--status --json", "status", ""},
		{"--read x --server s --pkey k --limit-rate 5k", "read", ""},
		{"", "", "nothing to do"},
		{"--json", "", "nothing to do"},
		{"--check --apply", "", "--check and --apply cannot be combined"},
		{"--commit --rollback", "", "cannot be combined"},
		{"--apply --reboot", "", "--reboot does not go with --apply"},
		{"--check --dry-run", "", "--dry-run does not go with --check"},
		{"--status --server x", "", "--server does not go with --status"},
		{"--commit --version 1", "", "--version does not go with --commit"},
		{"--apply --activate jump", "", "want kexec or reboot"},
		{"--apply --activate kexec --download-only", "", "starts nothing"},
		{"--apply --limit-rate fast", "", "--limit-rate"},
		{"--apply now", "", `unexpected argument "now"`},
		{"--frobnicate", "", "not defined"},
		{"--version", "", "needs an argument"},
	} {
		o, err := parse(strings.Fields(c.args))
		if c.err != "" {
			var e *cli.Error
			if err == nil || !strings.Contains(err.Error(), c.err) || !errors.As(err, &e) || e.Code != cli.Usage {
				t.Errorf("parse(%s) = %v, want a usage error with %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || o.action() != c.action {
			t.Errorf("parse(%s) = %+v, %v, want action %s", c.args, o, err, c.action)
		}
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse(--help) = %v, want %v", err, flag.ErrHelp)
	}
}

// TestEveryOptionIsNamed keeps help, manual page and completion complete.
func TestEveryOptionIsNamed(t *testing.T) {
	src, err := os.ReadFile("options.go")
	if err != nil {
		t.Fatal(err)
	}
	man, err := os.ReadFile("../../docs/man/os-update.8")
	if err != nil {
		t.Fatal(err)
	}
	completion, err := os.ReadFile("../../os/root/usr/share/bash-completion/completions/os-update")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`&o\.\w+, "([a-z-]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(names) < 15 {
		t.Fatalf("found %d options in options.go, want all of them", len(names))
	}
	for _, n := range names {
		if !strings.Contains(usage, "--"+n[1]) {
			t.Errorf("help says nothing about --%s", n[1])
		}
		if !strings.Contains(string(man), strings.ReplaceAll("--"+n[1], "-", `\-`)) {
			t.Errorf("os-update.8 says nothing about --%s", n[1])
		}
		if !slices.Contains(strings.Fields(strings.ReplaceAll(string(completion), `"`, " ")), "--"+n[1]) {
			t.Errorf("the completion does not know --%s", n[1])
		}
	}
}

// TestCompletion asks bash.
func TestCompletion(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"--act", "--activate"},
		{"--apply --activate k", "kexec"},
		{"--co", "--commit --confirm --config"},
		{"--server http://h --j", "--json"},
		{"--version 2", ""},
		{"--f", "--firmware"},
	} {
		script := `source ../../os/root/usr/share/bash-completion/completions/os-update
			COMP_WORDS=(os-update ` + c.words + `) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_os_update; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", "-c", script).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("completion of %q = %q, %v, want %q", c.words, got, err, c.want)
		}
	}
}

// call runs the program where there is no device.
func call(t *testing.T, at place, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Args: args, Getenv: func(string) string { return "" }}
	code = cli.RunEnv("os-update", env, func(ctx context.Context, env *cli.Env) error { return run(ctx, env, at) })
	return code, out.String(), errs.String()
}

func nowhere(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	if err := key.Generate(dir, "image"); err != nil {
		t.Fatal(err)
	}
	return place{
		machine: &update.System{BootFile: filepath.Join(dir, "boot.json")}, keys: dir,
		lock: filepath.Join(dir, "lock"), trust: update.Trust{Root: filepath.Join(dir, "root.json")},
	}
}

func TestRunWithoutADevice(t *testing.T) {
	at := nowhere(t)
	config := filepath.Join(t.TempDir(), "os-update.yml")
	if err := os.WriteFile(config, []byte("nmae: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		code   cli.Code
		stdout string
		stderr string
	}{
		{"--help", cli.OK, "Usage: os-update", ""},
		{"--status", cli.OK, "slot unknown", ""},
		{"--status --json", cli.OK, `"problems"`, ""},
		{"", cli.Usage, "", "nothing to do"},
		{"--check", cli.Failure, "", "boot description"},
		{"--apply --json", cli.Failure, "", `"error"`},
		{"--commit", cli.Failure, "", "boot description"},
		{"--rollback", cli.Failure, "", "boot description"},
		{"--firmware", cli.Failure, "", "boot description"},
		{"--check --config " + config, cli.Failure, "", "os-update.yml:1: field nmae not found"},
		{"--check --server ftp://x", cli.Usage, "", "scheme ftp"},
		{"--read x", cli.Usage, "", "no update server"},
	} {
		code, stdout, stderr := call(t, at, strings.Fields(c.args)...)
		if code != int(c.code) || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("os-update %s = %d, %q, %q, want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
}

func TestNoKeys(t *testing.T) {
	at := nowhere(t)
	at.keys = t.TempDir()
	if code, _, stderr := call(t, at, "--check"); code != int(cli.Failure) || !strings.Contains(stderr, "there is none in") {
		t.Errorf("--check without keys = %d, %q", code, stderr)
	}
	// Status never fails.
	code, stdout, _ := call(t, at, "--status", "--json")
	var st update.Status
	if err := json.Unmarshal([]byte(stdout), &st); err != nil || code != 0 || len(st.Problems) != 2 {
		t.Errorf("--status without keys = %d, %v, %+v, want both problems", code, err, st)
	}
}

func TestTexts(t *testing.T) {
	res := &update.ApplyResult{Slot: "b", KeptBytes: 1 << 20, ReusedBytes: 2 << 20, FetchedBytes: 3 << 20, TotalBytes: 6 << 20}
	res.Available.Version, res.Installed.Slot, res.Wrote = "2", "a", true
	for _, c := range []struct{ outcome, activation, want string }{
		{update.OutcomeWritten, "", "slot b holds 2 (1.0 MiB kept, 2.0 MiB from slot a, 3.0 MiB fetched), not started"},
		{update.OutcomeActivating, "kexec", "slot b holds 2 (1.0 MiB kept, 2.0 MiB from slot a, 3.0 MiB fetched), jumping into it"},
		{update.OutcomeActivating, "reboot", "slot b holds 2 (1.0 MiB kept, 2.0 MiB from slot a, 3.0 MiB fetched), rebooting into it"},
		{update.OutcomePlanned, "", "would write 2 to slot b: 1.0 MiB kept, 2.0 MiB from slot a, 3.0 MiB fetched of 6.0 MiB"},
	} {
		res.Outcome, res.Activation = c.outcome, c.activation
		if got := applyText(res); got != c.want {
			t.Errorf("applyText(%s) = %q, want %q", c.outcome, got, c.want)
		}
	}
	res.FullImage = true
	if got, want := applyText(res), "3.0 MiB fetched as a whole image of 6.0 MiB"; !strings.HasSuffix(got, want) {
		t.Errorf("applyText(whole image) = %q, want %q at its end", got, want)
	}
}

func TestFirmwareText(t *testing.T) {
	files := []update.FirmwareFile{
		{Name: "EFI/BOOT/BOOTX64.EFI", State: update.FirmwareReplaced, Old: "01", New: "02", Previous: "EFI/BOOT/BOOTX64.OLD"},
		{Name: "A", State: update.FirmwareCurrent, Old: "03", New: "03"},
		{Name: "B", State: update.FirmwareNew, New: "04"},
	}
	for dry, want := range map[bool]string{
		false: "EFI/BOOT/BOOTX64.EFI replaced by that of version 2 (02, was 01), EFI/BOOT/BOOTX64.OLD keeps the old one\n" +
			"A is that of version 2 (03)\nB new, of version 2 (04)",
		true: "EFI/BOOT/BOOTX64.EFI would be replaced by that of version 2 (02, was 01), EFI/BOOT/BOOTX64.OLD keeps the old one\n" +
			"A is that of version 2 (03)\nB would be new, of version 2 (04)",
	} {
		if got := firmwareText(&update.FirmwareResult{Version: "2", Files: files, DryRun: dry}); got != want {
			t.Errorf("firmwareText(dry run %v) = %q, want %q", dry, got, want)
		}
	}
}
