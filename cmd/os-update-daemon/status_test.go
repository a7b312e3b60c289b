package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/origin/origintest"
)

func TestStatus(t *testing.T) {
	l := newLab(t)
	l.files["/a.raw"], l.files["/b.raw"] = origintest.Disk(t, "1"), origintest.Disk(t, "1")
	l.configure("a.raw", "b.raw")
	if code, _, stderr := l.fetch(); code != 0 {
		t.Fatal(stderr)
	}
	l.files["/a.raw"] = []byte("<html>")
	l.configure("a.raw", "c.raw")
	if code, _, _ := call("--image", filepath.Join(l.images, "a.raw"), "--oneshot", "--config", l.config); code == 0 {
		t.Fatal("garbage was taken")
	}
	repo := t.TempDir()
	timestamp := filepath.Join(repo, "metadata", "timestamp.json")
	if err := os.MkdirAll(filepath.Dir(timestamp), 0o755); err != nil {
		t.Fatal(err)
	}
	status := func(args ...string) string {
		t.Helper()
		code, out, stderr := call(append([]string{"status", "--config", l.config, "--images", l.images, "--repo", repo}, args...)...)
		if code != 0 || stderr != "" {
			t.Errorf("status = %d, %q", code, stderr)
		}
		return out
	}
	expect := func(out string, patterns ...string) {
		t.Helper()
		for _, p := range patterns {
			if !regexp.MustCompile(`(?m)` + p).MatchString(out) {
				t.Errorf("status lacks %s:\n%s", p, out)
			}
		}
	}
	expect(status(), `^NAME +VERSION +SIZE +SHA-256 +FETCHED +CHECKED +VERIFIED BY +LAST ERROR$`,
		`^a\.raw +1 +10 MiB +[0-9a-f]{12} +\d{4}-\d\d-\d\d \d\d:\d\dZ +\d.*Z +- +update a\.raw from `,
		`^b\.raw +1 .* no longer configured$`, `^c\.raw +- +- +- +- +- +- +not asked for yet$`,
		`^repository .*: read repository: .*no such file`)

	for expiry, want := range map[string]string{"2999-01-01T00:00:00Z": `: good until 2999-01-01 00:00Z$`, "2020-01-01T00:00:00Z": `: the repository's metadata has expired, at 2020-01-01 00:00Z$`} {
		if err := os.WriteFile(timestamp, []byte(`{"signed":{"expires":"`+expiry+`"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(status(), want)
	}
	var r report
	if err := json.Unmarshal([]byte(status("--json")), &r); err != nil || len(r.Images) != 3 || !r.Images[0].Configured ||
		r.Images[1].Configured || r.Images[0].Error == "" || r.Images[0].Version != "1" || len(r.Problems) != 0 || r.Repository.Expires == nil {
		t.Errorf("status --json = %+v, %v", r, err)
	}

	// What is broken is said, beside all that is not.
	record := filepath.Join(l.images, ".state", "b.raw.json")
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(record, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.config, []byte("update:\n- {nam: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(repo); err != nil {
		t.Fatal(err)
	}
	expect(status(), `^a\.raw +1 `, `^problem: .*os-update\.yml:2: unknown key "nam"`, `^problem: read state: .*b\.raw\.json`, `^repository .*: open repository: `)
}

func TestPlain(t *testing.T) {
	if got, want := plain("a\x1b[31m\tb\nc"), "a [31m b c"; got != want {
		t.Errorf("plain = %q, want %q", got, want)
	}
}

func TestDiskProblem(t *testing.T) {
	dir := t.TempDir()
	unit := filepath.Join(dir, "srv-www-fleet.mount")
	if got := diskProblem(unit, dir); got != "" {
		t.Errorf("without a unit: %q, want nothing", got)
	}
	if err := os.WriteFile(unit, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := diskProblem(unit, dir); !strings.Contains(got, "no disk is mounted at "+dir) || !strings.Contains(got, "eos-fleet") {
		t.Errorf("without a disk: %q", got)
	}
	if got := diskProblem(unit, "/proc"); got != "" {
		t.Errorf("with something mounted: %q, want nothing", got)
	}
	if got := diskProblem(unit, filepath.Join(dir, "none")); !strings.Contains(got, "no such file") {
		t.Errorf("without a folder: %q", got)
	}
}
