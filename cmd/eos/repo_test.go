package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
)

// TestRepo is the life of a repository: test, promote, list, verify, prune.
func TestRepo(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	do := func(args ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		out, err := s.run(t.Context(), newRepoCommand, &stderr, append(args, "--repo", repo)...)
		if err != nil || stderr.Len() > 0 && args[0] != "verify" {
			t.Fatalf("eos repo %v = %v, %s", args, err, stderr.String())
		}
		return out
	}
	if _, err := s.publish("--repo", repo, s.slot("1", "a")); err != nil {
		t.Fatal(err)
	}
	out, err := s.publish("--repo", repo, "--channel", "testing", s.slot("2", "a"))
	if err != nil || !strings.Contains(out, "published in channel testing") {
		t.Errorf("eos publish --channel = %q, %v", out, err)
	}
	if out, err := s.publish("--repo", repo, s.slot("2", "a")); err != nil || !strings.Contains(out, "eos repo promote changes") {
		t.Errorf("eos publish again in another channel = %q, %v", out, err)
	}
	for _, want := range []string{"NAME", "eos   1 ", "testing", "stable"} {
		if out := do("list"); !strings.Contains(out, want) {
			t.Errorf("eos repo list lacks %q:\n%s", want, out)
		}
	}
	if out := do("promote", "eos", "2", "--to", "stable"); !strings.Contains(out, "from testing to stable") {
		t.Errorf("eos repo promote = %q", out)
	}
	if out := do("promote", "eos", "2", "--to", "stable"); !strings.Contains(out, "in stable already") {
		t.Errorf("eos repo promote again = %q", out)
	}
	var images []repository.Image
	if err := json.Unmarshal([]byte(do("list", "--json")), &images); err != nil || len(images) != 2 || images[1].Channel != "stable" {
		t.Errorf("eos repo list --json = %+v, %v", images, err)
	}
	if out := do("prune", "--keep", "1", "--dry-run"); !strings.Contains(out, "1 for qemu (amd64), stable: would no longer be listed") {
		t.Errorf("eos repo prune --dry-run = %q", out)
	}
	if out := do("prune", "--keep", "1"); !strings.Contains(out, "no longer listed") || !strings.Contains(out, "0 files (0 B) removed") {
		t.Errorf("eos repo prune = %q", out)
	}
	if out := do("list"); strings.Contains(out, "eos   1 ") {
		t.Errorf("eos repo list after prune:\n%s", out)
	}
	if out := do("verify"); !strings.Contains(out, "1 image, 3 files") || !strings.Contains(out, "3 files of no listed image") {
		t.Errorf("eos repo verify = %s", out)
	}
	blobs, err := filepath.Glob(filepath.Join(repo, "targets/eos/qemu/2/*.blob"))
	if err != nil || len(blobs) != 1 {
		t.Fatal(blobs, err)
	}
	if err := os.Truncate(blobs[0], 5); err != nil {
		t.Fatal(err)
	}
	var report repository.Report
	out, err = s.run(t.Context(), newRepoCommand, io.Discard, "verify", "--quick", "--json", "--repo", repo)
	var coded *cli.Error
	if !errors.As(err, &coded) || coded.Code != cli.Unverified {
		t.Errorf("eos repo verify of a damaged repository = %v, want code %v", err, cli.Unverified)
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Problems) != 1 {
		t.Errorf("eos repo verify --json = %s, %v", out, err)
	}
	// Metadata that does not verify is found, and does not keep the command from running.
	if err := os.WriteFile(filepath.Join(repo, "metadata/timestamp.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = s.run(t.Context(), newRepoCommand, io.Discard, "verify", "--repo", repo)
	if !errors.As(err, &coded) || coded.Code != cli.Unverified || !strings.Contains(out, "wrong: ") {
		t.Errorf("eos repo verify of damaged metadata = %q, %v", out, err)
	}
}

func TestRepoMistakes(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	if _, err := s.publish("--repo", repo, s.slot("1", "a")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code cli.Code
		text string
		hint string
	}{
		{[]string{"list"}, cli.Usage, "no repository given", "--repo"},
		{[]string{"list", "--repo", repo + "x"}, cli.Failure, "no such file", "eos publish"},
		{[]string{"verify", "--repo", s.keys}, cli.Failure, "not a repository", "--repo"},
		{[]string{"promote", "eos", "1", "--repo", repo}, cli.Usage, "no channel given", "--to"},
		{[]string{"promote", "eos", "7", "--to", "stable", "--repo", repo}, cli.Refused, "no such image", "eos repo list"},
		{[]string{"prune", "--repo", repo}, cli.Usage, "nothing would be left", "--keep"},
		{[]string{"prune", "--keep", "2", "--grace", "0s", "--repo", repo}, cli.Usage, "grace time", "24h"},
	} {
		_, err := s.run(t.Context(), newRepoCommand, io.Discard, test.args...)
		var coded *cli.Error
		if !errors.As(err, &coded) || coded.Code != test.code || !strings.Contains(err.Error(), test.text) || !strings.Contains(coded.Hint, test.hint) {
			t.Errorf("eos repo %v: %v (%+v), want code %v, %q, hint %q", test.args, err, coded, test.code, test.text, test.hint)
		}
	}
	if _, err := s.publish("--repo", repo, "--channel", "a b", s.slot("2", "a")); err == nil || !strings.Contains(err.Error(), `channel "a b"`) {
		t.Errorf("eos publish --channel 'a b' = %v", err)
	}
}
