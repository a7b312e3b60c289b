package unit_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/flake/unit"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const ofSystem = `# Made by flake-ctl(8), which takes it out again with its flake.
[Unit]
Description=Flake my.app
Documentation=man:podman-pilot(8)
After=registry-rw.service network.target

[Service]
Type=notify
ExecStart=/usr/share/flakes/bin/my.app @service
KillMode=mixed
Delegate=yes
Restart=on-failure
RestartSec=5s
# The first start may put the container together.
TimeoutStartSec=5min

[Install]
WantedBy=multi-user.target

[X-Flake]
Name=my.app
`

func TestText(t *testing.T) {
	u := unit.Unit{Name: "web", Flake: "my.app", Command: "/usr/share/flakes/bin/my.app"}
	text, err := u.Text()
	if diff := cmp.Diff(ofSystem, string(text)); err != nil || diff != "" {
		t.Errorf("Text: %v (-want +got):\n%s", err, diff)
	}
	if got := unit.Owner(text); got != "my.app" {
		t.Errorf("Owner = %q", got)
	}
	u.User, u.Silent = true, true
	text, err = u.Text()
	if got := string(text); err != nil || !strings.Contains(got, "WantedBy=default.target") || !strings.Contains(got, "Type=exec") || strings.Contains(got, "After=") {
		t.Errorf("Text of a user's = %s, %v", got, err)
	}
	for _, text := range []string{"", "[Service]\nName=x\n", "[X-Flake]\n[Unit]\nName=x\n"} {
		if got := unit.Owner([]byte(text)); got != "" {
			t.Errorf("Owner of %q = %q", text, got)
		}
	}
}

// Systemd takes the file as it is.
func TestSystemdTakesIt(t *testing.T) {
	toolstreetest.NeedProgram(t, "systemd-analyze")
	dir := t.TempDir()
	command := filepath.Join(dir, "a+b@c=1")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, isUser := range []bool{false, true} {
		u := unit.Unit{Name: "one", Flake: "a+b@c=1", Command: command, User: isUser}
		text, err := u.Text()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, unit.File(u.Name))
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), "one.service") {
			t.Errorf("systemd-analyze: %v\n%s", err, out)
		}
	}
}

// A unit that has a text has names in it that systemd reads as they are.
func TestNames(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"a", "a b", "%n", "$HOME", "a\n[X]", "-x", "@", "ä", "a.b:c"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		u := unit.Unit{Name: word.Draw(t, "name"), Flake: word.Draw(t, "flake")}
		u.Command = "/bin/" + u.Flake
		text, err := u.Text()
		if err != nil {
			if !errors.Is(err, unit.ErrName) {
				t.Fatal(err)
			}
			return
		}
		if strings.ContainsAny(u.Name+u.Command, "%$ \n\"'\\;") || !strings.Contains(string(text), "\nExecStart="+u.Command+" @service") || unit.Owner(text) != u.Flake {
			t.Fatalf("Text of %+v = %s", u, text)
		}
	})
}
