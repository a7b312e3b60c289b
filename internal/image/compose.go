package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/key"
	osfiles "github.com/OSInside/eos/os"
)

// inputs are what a root is composed of besides the packages.
type inputs struct {
	spec     *imagespec.Spec
	accept   []key.Public
	keyFiles map[string][]byte // NAME.pub
	rootJSON []byte            // trusted root of the repository's metadata; may be nil
	sshKeys  []string          // of whoever builds a dev image
	programs map[string][]byte // path in the image -> content
	epoch    time.Time
}

// compose lays EOS's files and then the description over the packages' root.
func (t *tree) compose(in *inputs) error {
	if err := t.lay(osfiles.Root()); err != nil {
		return err
	}
	s := in.spec
	server := s.Profile == imagespec.ProfileServer
	if server {
		if err := t.layServer(s); err != nil {
			return err
		}
	}
	if s.Registry.Policy != imagespec.PolicyOff {
		if err := t.layRegistry(s); err != nil {
			return err
		}
	}
	if hasPodman(s) {
		if err := t.layPodman(); err != nil {
			return err
		}
	}
	if hasFlakes(s) {
		if err := t.lay(osfiles.Flakes()); err != nil {
			return err
		}
	}
	for p, data := range in.programs {
		t.write(p, 0o755, data)
	}
	for name, data := range in.keyFiles {
		t.write("/usr/share/eos/keys/"+name, 0o644, data)
	}
	if in.rootJSON != nil {
		t.write("/usr/share/eos/root.json", 0o644, in.rootJSON)
	}
	if err := t.writeUpdateConfig(s); err != nil {
		return err
	}
	t.write("/etc/hostname", 0o644, []byte(s.Hostname+"\n"))
	t.write("/etc/hosts", 0o644, fmt.Appendf(nil,
		"127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", s.Hostname))
	t.write("/etc/machine-id", 0o444, nil)
	t.write("/etc/fstab", 0o644, []byte("# / is given by eos-init, all else by units.\n"))
	t.write("/etc/locale.conf", 0o644, []byte("LANG=C.UTF-8\n"))
	t.symlink("/etc/default/locale", "../locale.conf") // PAM warns without it, systemd-tmpfiles about another
	t.symlink("/etc/resolv.conf", "../run/systemd/resolve/resolv.conf")
	if err := t.setAccounts(in); err != nil {
		return err
	}
	if server {
		if err := t.makeServerFolders(); err != nil {
			return err
		}
	}
	if err := t.setRelease(s); err != nil {
		return err
	}
	if err := t.layFlakes(s); err != nil {
		return err
	}
	if err := t.setUnits(in); err != nil {
		return err
	}
	if err := t.addFiles(s.Files, s.SourcePath); err != nil {
		return err
	}
	if server {
		return t.checkServer(s)
	}
	return nil
}

// lay copies embedded files.
func (t *tree) lay(files fs.FS) error {
	return fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if dir := path.Base(path.Dir(p)); dir == "bin" || dir == "libexec" {
			mode = 0o755
		}
		t.write("/"+p, mode, data)
		return nil
	})
}

// writeUpdateConfig writes what os-update reads, and on an update server os-update-daemon.
func (t *tree) writeUpdateConfig(s *imagespec.Spec) error {
	u := s.Update
	text, err := yaml.Marshal(struct {
		Server      string `yaml:"server"`
		Name        string `yaml:"name"`
		Class       string `yaml:"class"`
		Activate    string `yaml:"activate"`
		Channel     string `yaml:"channel,omitempty"`
		Limit       string `yaml:"limit_rate,omitempty"`
		PKey        string `yaml:"pkey,omitempty"`
		CA          string `yaml:"ca,omitempty"`
		Certificate string `yaml:"certificate,omitempty"`
		Key         string `yaml:"key,omitempty"`

		Images []source `yaml:"update,omitempty"`
		Mirror string   `yaml:"mirror,omitempty"`
	}{
		u.Server, u.Name, s.Class, u.Activate, u.Channel, u.Limit, u.PKey, u.CA, u.Certificate, u.Key,
		sources(s.Server.Images), s.Server.Mirror,
	})
	if err != nil {
		return fmt.Errorf("write update configuration: %w", err)
	}
	t.write("/etc/os-update.yml", 0o644, append([]byte("# Made by the build from the image description.\n"), text...))
	return nil
}

func (t *tree) setAccounts(in *inputs) error {
	a, err := t.readAccounts()
	if err != nil {
		return err
	}
	a.lock(in.epoch)
	if in.spec.Profile == imagespec.ProfileServer {
		if err := a.addServer(in.epoch); err != nil {
			return err
		}
	}
	keys := map[string][]string{}
	for _, u := range in.spec.Users {
		isNew := find(a.passwd, u.Name) == nil
		if err := a.set(u, in.epoch); err != nil {
			return err
		}
		keys[u.Name] = append(keys[u.Name], u.SSHKeys...)
		if isNew {
			t.put("/home/"+u.Name, &node{typ: tar.TypeDir, mode: 0o755, uid: u.UID, gid: u.UID})
		}
	}
	if in.spec.Dev {
		keys["root"] = append(keys["root"], in.sshKeys...)
	}
	a.store(t)
	if slices.Contains(in.spec.Packages, "podman") {
		t.subordinate(in.spec.Users)
	}
	for user, lines := range keys {
		if len(lines) > 0 {
			t.write("/etc/ssh/authorized_keys.d/"+user, 0o644, []byte(strings.Join(lines, "\n")+"\n"))
		}
	}
	return nil
}

// subordinate gives users numbers of their own for those in their containers, as useradd does.
func (t *tree) subordinate(users []imagespec.User) {
	const first, each = 100_000, 65_536
	var table strings.Builder
	for _, u := range users {
		if u.UID >= 1000 {
			fmt.Fprintf(&table, "%s:%d:%d\n", u.Name, first+(u.UID-1000)*each, each)
		}
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		t.write(path, 0o644, []byte(table.String()))
	}
}

// setRelease names the image in os-release.
func (t *tree) setRelease(s *imagespec.Spec) error {
	text, err := t.read("/usr/lib/os-release")
	if err != nil {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "IMAGE_ID=") && !strings.HasPrefix(line, "IMAGE_VERSION=") {
			out.WriteString(line)
		}
	}
	fmt.Fprintf(&out, "IMAGE_ID=%s\nIMAGE_VERSION=%s\n", s.Name, s.Version)
	t.rewrite("/usr/lib/os-release", []byte(out.String()))
	t.symlink("/etc/os-release", "../usr/lib/os-release")
	return nil
}

func (t *tree) setUnits(in *inputs) error {
	s := in.spec
	for _, u := range s.Units.Add {
		t.write(unitDir+"/"+u.Name, 0o644, []byte(u.Content))
	}
	for _, name := range disabled {
		t.disable(name)
	}
	for _, name := range masked {
		t.mask(name)
	}
	for _, name := range maskedGenerators {
		t.symlink("/etc/systemd/system-generators/"+name, "/dev/null")
	}
	for _, u := range enabled {
		if _, err := t.findUnit(u.name); err != nil && !u.needed {
			continue
		}
		if err := t.enable(u.name); err != nil {
			return err
		}
	}
	if s.Registry.Policy != imagespec.PolicyOff {
		if err := t.enableRegistry(s); err != nil {
			return err
		}
	}
	if hasFlakes(s) {
		if err := t.enable("flakes-boot.service"); err != nil {
			return err
		}
	}
	if err := t.setConsole(s.Dev); err != nil {
		return err
	}
	limit := fmt.Sprintf("[Unit]\nJobTimeoutSec=%ds\n", s.Boot.HealthTimeout.Seconds())
	t.write(unitDir+"/os-update-commit.service.d/20-image.conf", 0o644, []byte(limit))
	t.write(unitDir+"/boot-complete.target.d/20-image.conf", 0o644, []byte(limit))
	if s.Profile == imagespec.ProfileServer {
		for _, name := range serverUnits {
			if err := t.enable(name); err != nil {
				return err
			}
		}
	}
	for _, name := range s.Units.Enable {
		if err := t.enable(name); err != nil {
			return err
		}
	}
	for _, name := range s.Units.Mask {
		t.mask(name)
	}
	return nil
}

// setConsole takes the logins from the consoles of a device, and opens them on
// an image for development.
func (t *tree) setConsole(dev bool) error {
	if !dev {
		t.symlink("/etc/systemd/system-generators/systemd-getty-generator", "/dev/null")
		for _, name := range []string{"getty@.service", "serial-getty@.service",
			"console-getty.service", "container-getty@.service", "getty-static.service",
			"autovt@.service", "debug-shell.service"} {
			t.mask(name)
		}
		t.disable("getty@tty1.service")
		return nil
	}
	if t.get("/usr/bin/login") == nil {
		return cli.Refuse(cli.Failure, errors.New("open the console of a development image: nothing can log in"),
			"add the package login to the image description")
	}
	login := "# This is an image for development: whoever has the console has the device.\n" +
		"[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noreset --noclear %s%%I $TERM\n"
	t.write(unitDir+"/serial-getty@.service.d/10-dev.conf", 0o644, fmt.Appendf(nil, login, "--keep-baud 115200,57600,38400,9600 "))
	t.write(unitDir+"/getty@.service.d/10-dev.conf", 0o644, fmt.Appendf(nil, login, ""))
	return nil
}

// addFiles writes the files of a description, last: they win. source returns where the
// content of one is.
func (t *tree) addFiles(files []imagespec.File, source func(imagespec.File) string) error {
	a, err := t.readNames()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Link != "" {
			t.symlink(f.Path, f.Link)
			continue
		}
		data := []byte(f.Content)
		if f.Source != "" {
			if data, err = os.ReadFile(source(f)); err != nil {
				return fmt.Errorf("add file %s: %w", f.Path, err)
			}
		}
		n := &node{typ: tar.TypeReg, mode: int64(f.Mode), size: int64(len(data)), data: data}
		if n.uid, err = id(a.passwd, "user", f.Owner); err != nil {
			return fmt.Errorf("add file %s: %w", f.Path, err)
		}
		if n.gid, err = id(a.group, "group", f.Group); err != nil {
			return fmt.Errorf("add file %s: %w", f.Path, err)
		}
		t.put(f.Path, n)
	}
	return nil
}

// about is /usr/share/eos/build.json.
type about struct {
	Name    string `json:"name"`
	Class   string `json:"class"`
	Arch    string `json:"arch"`
	Version string `json:"version"`
	BuildID string `json:"build_id"`
}

func (t *tree) writeAbout(s *imagespec.Spec, buildID string) error {
	text, err := json.MarshalIndent(about{s.Name, s.Class, s.Arch, s.Version, buildID}, "", "  ")
	if err != nil {
		return fmt.Errorf("write build.json: %w", err)
	}
	t.write("/usr/share/eos/build.json", 0o644, append(text, '\n'))
	return nil
}
