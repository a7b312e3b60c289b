package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const units = "../../os/update-server/usr/lib/systemd/system/"

// TestUnitIsHardened asks systemd what a unit leaves open: 0 is nothing, 10 everything. What
// os-fetch.service starts with '+' is not in it: see TestPrivilege.
func TestUnitIsHardened(t *testing.T) {
	tree := toolstreetest.Open(t)
	for _, name := range []string{"os-update-serve.service", "os-fetch.service", "os-update-daemon@.service", "os-update-daemon@repository.service"} {
		unit, err := filepath.Abs(units + name)
		if err != nil {
			t.Fatal(err)
		}
		out := toolstreetest.Output(t, tree, "systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze says of %s:\n%s", name, out)
		}
		t.Logf("%s: %s", name, m[1])
		if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 2.0 {
			t.Errorf("exposure level of %s is %s, want 2.0 at most:\n%s", name, m[1], out)
		}
	}
}

// TestPrivilege: one line of all units runs with root's rights, besides those that make folders
// and the host key.
func TestPrivilege(t *testing.T) {
	files, err := filepath.Glob(units + "*.service")
	if err != nil || len(files) < 4 {
		t.Fatalf("units %q, %v", files, err)
	}
	var lines []string
	for _, f := range files {
		text := read(t, f)
		root := !strings.Contains(text, "\nUser=os-update\n")
		for _, m := range regexp.MustCompile(`(?m)^Exec\w+=(.*)$`).FindAllStringSubmatch(text, -1) {
			if strings.ContainsAny(m[1][:1], "+!") || root && strings.Contains(m[1], program) {
				lines = append(lines, filepath.Base(f)+": "+m[1])
			}
		}
	}
	if got, want := strings.Join(lines, "\n"), "os-fetch.service: +/usr/bin/os-update-daemon timers"; got != want {
		t.Errorf("with root's rights run:\n%s\nwant %s", got, want)
	}
}

// TestUnitsAreUnderstood lets systemd read them.
func TestUnitsAreUnderstood(t *testing.T) {
	tree := toolstreetest.Open(t)
	files, err := filepath.Glob(units + "*.*")
	if err != nil || len(files) < 7 {
		t.Fatalf("units %q, %v", files, err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		if strings.HasSuffix(name, ".d") {
			continue
		}
		path, err := filepath.Abs(filepath.Dir(f))
		if err != nil {
			t.Fatal(err)
		}
		out := toolstreetest.Output(t, tree, "sh", "-c", `SYSTEMD_UNIT_PATH="$1:" systemd-analyze verify --man=no --recursive-errors=no "$1/$2" 2>&1; true`,
			"sh", path, strings.Replace(name, "@.", "@EOS.x86_64.", 1))
		for line := range strings.Lines(out) {
			// The programs are not in the tools tree.
			if !strings.Contains(line, "is not executable: No such file") {
				t.Errorf("systemd says of %s: %s", name, line)
			}
		}
	}
}

// TestNoCycle puts the units where the build does and asks systemd for the order of a start:
// os-fetch.timer is after what may not wait for it.
func TestNoCycle(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	for _, from := range []string{"../../os/root/usr/lib/systemd/system", units} {
		if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"multi-user.target.wants/os-update-serve.service":                      "os-update-serve.service",
		"multi-user.target.wants/os-fetch.timer":                               "os-fetch.timer",
		"multi-user.target.wants/os-update-commit.service":                     "os-update-commit.service",
		"boot-complete.target.requires/os-update-confirm.service":              "os-update-confirm.service",
		"boot-complete.target.requires/systemd-boot-check-no-failures.service": "/usr/lib/systemd/system/systemd-boot-check-no-failures.service",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	out := toolstreetest.Output(t, tree, "sh", "-c", `SYSTEMD_UNIT_PATH="$1:" systemd-analyze verify --man=no multi-user.target boot-complete.target os-fetch.timer os-update-serve.service 2>&1; true`, "sh", dir)
	if strings.Contains(out, "cycle") {
		t.Errorf("systemd says:\n%s", out)
	}
	if !strings.Contains(out, "os-update-serve.service: Command /usr/bin/os-update-daemon is not executable") {
		t.Errorf("systemd has not looked at os-update-serve.service:\n%s", out)
	}
}
