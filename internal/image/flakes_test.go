package image

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/unit"
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

const flakesText = `name: eos
class: c
version: 1
packages: [systemd, podman, tini, dmsetup, xfsprogs]
registry: {policy: none}
containers:
  - {name: basesystem, archive: b.tar}
  - {name: lynx, archive: l.tar}
flakes:
  - {app: /usr/bin/lynx, container: lynx, base: basesystem, target: /opt/lynx, options: ["--net host", "-ti"]}
  - {app: /usr/sbin/webd, container: basesystem, unit: web, include_path: [/etc/hosts]}
`

// The image has the commands, as a device has those that are registered on it.
func TestFlakesOfTheImage(t *testing.T) {
	tr, err := composed(t, flakesText, imagespec.ProfileAB)
	if err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{
		"/usr/bin/lynx": "/usr/bin/podman-pilot", "/usr/sbin/webd": "/usr/bin/podman-pilot",
		"/etc/systemd/system/multi-user.target.wants/web.service": "/usr/lib/systemd/system/web.service",
	} {
		if n := tr.get(link); n == nil || n.link != want {
			t.Errorf("%s is %+v, want a link to %s", link, n, want)
		}
	}
	read := func(name string) *flake.Registration {
		t.Helper()
		file := flake.ShippedDir + "/" + name + ".yaml"
		text, err := tr.read(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := flake.Parse(name, []flake.File{{Path: file, Text: text}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := read("lynx")
	if c := r.Container; !r.Root() || c.Name != "lynx" || c.Base != "basesystem" || c.Target != "/opt/lynx" || c.Host != "/usr/bin/lynx" || strings.Join(c.Runtime.Podman, ",") != "--net host,-ti" {
		t.Errorf("lynx: %+v", r)
	}
	if r = read("webd"); strings.Join(r.Include.Path, ",") != "/etc/hosts" || strings.Join(r.Container.Runtime.Podman, ",") != "-ti,--sdnotify=conmon" {
		t.Errorf("webd: %+v", r)
	}
	text, err := tr.read("/usr/lib/systemd/system/web.service")
	if err != nil || unit.Owner(text) != "webd" || !strings.Contains(string(text), "ExecStart=/usr/sbin/webd @service\n") {
		t.Errorf("web.service: %s, %v", text, err)
	}
	// What the image has already is not put aside.
	_, err = composed(t, strings.Replace(flakesText, "unit: web", "unit: os-update", 1), imagespec.ProfileAB)
	if err == nil || !strings.Contains(err.Error(), "the image has /usr/lib/systemd/system/os-update.service already") {
		t.Errorf("a unit of the image's: %v", err)
	}
}

// An image without a registry has the launcher for them, and not what registers more.
func TestFlakesWithoutARegistry(t *testing.T) {
	text := strings.Replace(flakesText, "policy: none", "policy: off", 1)
	s, err := imagespec.Parse("d.yaml", []byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/"+pilot, []byte("pilot"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := &build{Options: Options{Spec: s, BinDir: dir, Progress: cli.NoProgress()}}
	b.in.programs = map[string][]byte{}
	if err := b.loadFlakes(); err != nil || len(b.in.programs) != 1 || b.in.programs["/usr/bin/podman-pilot"] == nil {
		t.Errorf("programs: %v, %v", b.in.programs, err)
	}
}
