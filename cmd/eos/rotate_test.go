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

// TestKeysRotate exchanges each key and publishes with what the keys directory then holds.
func TestKeysRotate(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	if _, err := s.publish("--repo", repo, s.slot("1", "a")); err != nil {
		t.Fatal(err)
	}
	for i, role := range []string{"online", "targets", "root", "online"} {
		var stderr bytes.Buffer
		out, err := s.run(t.Context(), newKeysRotateCommand, &stderr, role, "--repo", repo, "--json")
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("eos keys rotate %s = %v, %s", role, err, stderr.String())
		}
		var got rotated
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		want := role + "-2.key"
		if i == 3 {
			want = role + "-3.key"
		}
		if filepath.Base(got.NewKey) != want || len(got.Added) != 1 || len(got.Removed) != 1 || got.Versions.Root != int64(i+2) {
			t.Errorf("eos keys rotate %s = %s, want key %s and root %d", role, out, want, i+2)
		}
	}
	if _, err := s.publish("--repo", repo, s.slot("2", "a")); err != nil {
		t.Errorf("eos publish after all = %v", err)
	}
	root, err := repository.LoadRoot(s.keys)
	if err != nil || !bytes.Contains(root, []byte(`"version":5`)) {
		t.Errorf("root.json of the keys directory = %s, %v; want version 5", root, err)
	}
	out, err := s.run(t.Context(), newKeysListCommand, io.Discard)
	if err != nil || !strings.Contains(out, "online-3") || strings.Count(out, "repository snapshot, timestamp") != 3 {
		t.Errorf("eos keys list = %s, %v", out, err)
	}
}

func TestKeysRotateMistakes(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	if _, err := s.publish("--repo", repo, s.slot("1", "a")); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(s.keys, "image.pub")
	for _, test := range []struct {
		name string
		args []string
		code cli.Code
		text string
		hint string
	}{
		{"no repository", []string{"online"}, cli.Usage, "no repository given", "--repo"},
		{"role", []string{"all", "--repo", repo}, cli.Usage, `role "all": no such role`, "root, targets, online"},
		{"threshold", []string{"online", "--repo", repo, "--threshold", "0"}, cli.Usage, "threshold 0", ""},
		{"too few", []string{"online", "--repo", repo, "--threshold", "2"}, cli.Failure, "2 signatures would be wanted, of 1 keys", ""},
		{"key of nobody", []string{"online", "--repo", repo, "--remove", "0123456789abcdef"}, cli.Usage, "has not the role", "it has "},
		{"other folder", []string{"online", "--repo", s.keys}, cli.Failure, "not a repository", ""},
		{"last key", []string{"root", "--repo", repo, "--remove", filepath.Join(s.keys, "root.pub")}, cli.Failure, "of 0 keys", ""},
		{"no root key", []string{"online", "--repo", repo, "--add", image}, cli.Failure, "sign root metadata: 0 of 1 keys", ""},
	} {
		if test.name == "no root key" {
			if err := os.Remove(filepath.Join(s.keys, "root.key")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.run(t.Context(), newKeysRotateCommand, io.Discard, test.args...)
		var coded *cli.Error
		if err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %q", test.name, err, test.text)
		} else if errors.As(err, &coded); test.code != cli.Failure && (coded == nil || coded.Code != test.code || !strings.Contains(coded.Hint, test.hint)) {
			t.Errorf("%s: %v (%+v), want code %v, hint %q", test.name, err, coded, test.code, test.hint)
		}
	}
	if out, err := s.run(t.Context(), newKeysListCommand, io.Discard); err != nil || strings.Contains(out, "-2") {
		t.Errorf("eos keys list after mistakes = %s, %v; want no new key", out, err)
	}
}
