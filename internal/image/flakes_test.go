package image

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagespec"
)

// A device has flakes of its own where it has podman and a registry, and nowhere else.
func TestFlakes(t *testing.T) {
	for _, c := range []struct {
		packages, policy string
		want             bool
	}{
		{"systemd, podman, dmsetup, xfsprogs", imagespec.PolicyNone, true},
		{"systemd, dmsetup, xfsprogs", imagespec.PolicyNone, false},
		{"systemd, podman", imagespec.PolicyOff, false},
	} {
		text := fmt.Sprintf("name: eos\nclass: c\nversion: 1\npackages: [%s]\nregistry: {policy: %s}\n", c.packages, c.policy)
		s, err := imagespec.Parse("d.yaml", []byte(text), "")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		b := &build{Options: Options{Spec: s, BinDir: dir, Progress: cli.NoProgress()}}
		b.in.programs = map[string][]byte{}
		if err := b.loadFlakes(); errors.Is(err, os.ErrNotExist) != c.want {
			t.Errorf("%s, %s without the programs: %v", c.packages, c.policy, err)
		}
		for _, name := range []string{"flake-ctl", pilot} {
			if err := os.WriteFile(dir+"/"+name, []byte(name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.loadFlakes(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"/usr/bin/flake-ctl", "/usr/bin/podman-pilot"} {
			if _, has := b.in.programs[name]; has != c.want {
				t.Errorf("%s, %s: %s: %v, want %v", c.packages, c.policy, name, has, c.want)
			}
		}
		tr, err := composed(t, text, imagespec.ProfileAB)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/usr/share/bash-completion/completions/flake-ctl", "/etc/profile.d/flakes.sh", "/etc/systemd/system/multi-user.target.wants/flakes-boot.service"} {
			if has := tr.get(path) != nil; has != c.want {
				t.Errorf("%s, %s: %s: %v, want %v", c.packages, c.policy, path, has, c.want)
			}
		}
	}
}
