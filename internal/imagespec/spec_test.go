package imagespec_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/imagespec"
)

// full sets everything, so that a field that is not read cannot go unnoticed.
const full = `
name: eos
class: generic-x86_64
version: 1.10
arch: arm64
debian: {suite: sid, mirror: "https://deb.example.org/debian"}
packages: [systemd, openssh-server, dmsetup, xfsprogs]
remove: {packages: [man-db], paths: [/usr/share/doc/**]}
files:
  - {path: /etc/motd, content: "hello\n"}
  - {path: /usr/bin/x, source: sub/x, mode: "0755", owner: joe, group: adm}
  - {path: /etc/y, link: ../z}
units:
  enable: [a.service]
  mask: [b.timer]
  add: [{name: c.service, content: "[Unit]\n"}]
hostname: box.example.org
users:
  - {name: root, ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4 a@b"]}
  - {name: joe, shell: /bin/sh, uid: 1000, password_hash: "$6$salt$0123456789abcdef"}
  - {name: jim}
kernel: {command_line: "console=ttyS0 quiet"}
disk: {slot: 1GiB, esp: 256MiB, registry: 65536KiB, slots: 2}
squashfs: {level: 3}
keys: {sign: k1, accept: [k1, other/k2.pub]}
update: {server: "http://10.0.2.2:8080", name: box, activate: reboot}
registry: {policy: none}
boot: {watchdog: 0, health_timeout: 2m}
dev: true
outputs: [qcow2]
`

func parse(t *testing.T, text, profile string) *imagespec.Spec {
	t.Helper()
	s, err := imagespec.Parse("d.yaml", []byte(text), profile)
	if err != nil {
		t.Fatalf("Parse(profile %q) = %v", profile, err)
	}
	return s
}

func TestFull(t *testing.T) {
	want := &imagespec.Spec{
		File: "d.yaml", Profile: "AB",
		Name: "eos", Class: "generic-x86_64", Version: "1.10", Arch: "arm64",
		Debian:   imagespec.Debian{Suite: "sid", Mirror: "https://deb.example.org/debian"},
		Packages: []string{"systemd", "openssh-server", "dmsetup", "xfsprogs"},
		Remove:   imagespec.Remove{Packages: []string{"man-db"}, Paths: []string{"/usr/share/doc/**"}},
		Files: []imagespec.File{
			{Path: "/etc/motd", Content: "hello\n", Mode: 0o644, Owner: "root", Group: "root"},
			{Path: "/usr/bin/x", Source: "sub/x", Mode: 0o755, Owner: "joe", Group: "adm"},
			{Path: "/etc/y", Link: "../z", Mode: 0o644, Owner: "root", Group: "root"},
		},
		Units: imagespec.Units{
			Enable: []string{"a.service"}, Mask: []string{"b.timer"},
			Add: []imagespec.Unit{{Name: "c.service", Content: "[Unit]\n"}},
		},
		Hostname: "box.example.org",
		Users: []imagespec.User{
			{Name: "root", Shell: "/bin/bash", SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4 a@b"}},
			{Name: "joe", Shell: "/bin/sh", UID: 1000, PasswordHash: "$6$salt$0123456789abcdef"},
			{Name: "jim", Shell: "/bin/bash", UID: 1001},
		},
		Kernel:   imagespec.Kernel{CommandLine: "console=ttyS0 quiet"},
		Disk:     imagespec.Disk{Slot: imagespec.GiB, ESP: 256 * imagespec.MiB, Registry: 64 * imagespec.MiB, Slots: 2},
		Squashfs: imagespec.Squashfs{Level: 3},
		Keys:     imagespec.Keys{Sign: "k1", Accept: []string{"k1", "other/k2.pub"}},
		Update:   imagespec.Update{Server: "http://10.0.2.2:8080", Name: "box", Activate: "reboot"},
		Server:   imagespec.Server{Interval: imagespec.Duration(time.Hour)},
		Registry: imagespec.Registry{Policy: "none"},
		Boot:     imagespec.Boot{HealthTimeout: imagespec.Duration(2 * time.Minute)},
		Dev:      true,
		Outputs:  []string{"qcow2"},
	}
	if diff := cmp.Diff(want, parse(t, full, "")); diff != "" {
		t.Errorf("Parse(full) differs (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	s := parse(t, head, "")
	want := imagespec.Default()
	want.File, want.Profile = "d.yaml", "AB"
	want.Name, want.Class, want.Version, want.Packages = "eos", "generic-x86_64", "1.0.0", []string{"systemd"}
	want.Hostname, want.Update.Name = "eos", "eos"
	if diff := cmp.Diff(&want, s); diff != "" {
		t.Errorf("Parse(head) differs from Default (-want +got):\n%s", diff)
	}
	if len(s.Users) != 0 || s.Dev {
		t.Errorf("a description that says nothing about it lets %v in, want nobody", s.Users)
	}
}

func TestProfiles(t *testing.T) {
	text := head + `
remove: {paths: [/a, /b, /c]}
disk: {slot: 256MiB}
kernel: {command_line: console=ttyS0}
profiles:
  AB: {packages: [only]}
  EC2:
  more:
    version: 2.0
    packages: {add: [vim, ed], remove: [systemd]}
    remove: {paths: {remove: [/b], add: [/d]}}
    files: {add: [{path: /x, content: y}]}
    disk: {esp: 64MiB}
`
	tests := []struct {
		profile, version, packages, paths string
		slots                             int
		esp                               imagespec.Size
	}{
		{"", "1.0.0", "only", "/a /b /c", 2, 128 * imagespec.MiB},
		{"AB", "1.0.0", "only", "/a /b /c", 2, 128 * imagespec.MiB},
		{"Static", "1.0.0", "systemd", "/a /b /c", 1, 128 * imagespec.MiB},
		{"EC2", "1.0.0", "systemd", "/a /b /c", 2, 128 * imagespec.MiB},
		{"more", "2.0", "vim ed", "/a /c /d", 2, 64 * imagespec.MiB},
	}
	for _, tt := range tests {
		s := parse(t, text, tt.profile)
		if s.Version != tt.version || strings.Join(s.Packages, " ") != tt.packages ||
			strings.Join(s.Remove.Paths, " ") != tt.paths || s.Disk.Slots != tt.slots || s.Disk.ESP != tt.esp {
			t.Errorf("Parse(profile %q) = version %s packages %q paths %q slots %d esp %s, want %+v",
				tt.profile, s.Version, s.Packages, s.Remove.Paths, s.Disk.Slots, s.Disk.ESP, tt)
		}
		if s.Disk.Slot != 256*imagespec.MiB || s.Kernel.CommandLine != "console=ttyS0" {
			t.Errorf("Parse(profile %q) lost what the profile does not mention: %+v", tt.profile, s.Disk)
		}
	}
	_, err := imagespec.Parse("d.yaml", []byte(text), "ab")
	if ps := imagespec.Problems(err); len(ps) != 1 || !strings.Contains(ps[0].Error(), `no profile "ab"`) || !strings.Contains(ps[0].Hint(), "AB, Static, update-server, EC2, more") {
		t.Errorf("Parse(profile ab) = %v, want the profiles there are", err)
	}
	if got := strings.Join(imagespec.Profiles([]byte(text)), " "); got != "AB EC2 Static more update-server" {
		t.Errorf("Profiles = %s, want AB EC2 Static more update-server", got)
	}
}

// Elements that a profile keeps are still found in their own line.
func TestPatchedListsKeepTheirLines(t *testing.T) {
	text := "name: a\nclass: c\nversion: 1\npackages:\n  - one\n  - two\n  - Three\nprofiles:\n  AB: {packages: {remove: [one]}}\n"
	_, err := imagespec.Parse("d.yaml", []byte(text), "AB")
	ps := imagespec.Problems(err)
	if len(ps) == 0 || ps[0].Line != 7 || ps[0].Key != "packages[1]" {
		t.Errorf("Parse = %v, want a problem with packages[1] in line 7", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "eos.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("eos.yaml", head+"files:\n  - {path: /x, source: a.txt}\n")
	_, err := imagespec.Load(file, "")
	if ps := imagespec.Problems(err); len(ps) != 1 || ps[0].Line != 6 || !strings.Contains(ps[0].Error(), "no such file") {
		t.Errorf("Load without its source = %v, want a problem in line 6", err)
	}
	write("a.txt", "one")
	s1, err := imagespec.Load(file, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s1.Files[0].Sum, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"; got != want {
		t.Errorf("Sum = %s, want %s", got, want)
	}
	if got, want := s1.SourcePath(s1.Files[0]), filepath.Join(dir, "a.txt"); got != want {
		t.Errorf("SourcePath = %s, want %s", got, want)
	}
	write("a.txt", "two")
	s2, err := imagespec.Load(file, "")
	if err != nil {
		t.Fatal(err)
	}
	if s1.Digest() == s2.Digest() {
		t.Error("Digest is the same after a source file changed")
	}
	if _, err := imagespec.Load(filepath.Join(dir, "none.yaml"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load(none.yaml) = %v, want fs.ErrNotExist", err)
	}
	write("eos.yaml", head+"files:\n  - {path: /x, source: sub}\n")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := imagespec.Load(file, ""); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Load of a folder as source = %v, want an error", err)
	}
}

// An update server has what full has, and what makes it a server.
func TestServer(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4 a@b"
	text := head + `
profiles:
  update-server:
    users:
      - {name: joe}
      - {name: fleet, ssh_keys: ['command="/usr/bin/os-update-restricted",restrict ` + key + `']}
    server:
      images:
        - {image: "https://h/EOS.raw.xz", name: EOS.aarch64-RPI-TW.raw, keyring: /etc/origin.asc}
      mirror: https://h/eos
      interval: 90m
      listen: ":8443"
      metrics: "[::1]:9091"
      certificate: /srv/www/fleet/tls/cert.pem
      key: /srv/www/fleet/tls/key.pem
      client_ca: /etc/devices.pem
`
	s := parse(t, text, imagespec.ProfileServer)
	want := imagespec.Server{
		Images: []imagespec.ServerImage{{Image: "https://h/EOS.raw.xz", Name: "EOS.aarch64-RPI-TW.raw", Keyring: "/etc/origin.asc"}},
		Mirror: "https://h/eos", Interval: imagespec.Duration(90 * time.Minute), Listen: ":8443", Metrics: "[::1]:9091",
		Certificate: "/srv/www/fleet/tls/cert.pem", Key: "/srv/www/fleet/tls/key.pem", ClientCA: "/etc/devices.pem",
	}
	if diff := cmp.Diff(want, s.Server); diff != "" {
		t.Errorf("Server differs (-want +got):\n%s", diff)
	}
	if s.Disk.Slots != 2 {
		t.Errorf("an update server has %d slots, want 2", s.Disk.Slots)
	}
	// The account of devices is the profile's; one of that name elsewhere is like any other.
	if u := s.Users[1]; u.UID != imagespec.FleetUID || u.Shell != "/bin/sh" || s.Users[0].UID != 1000 {
		t.Errorf("Users = %+v, want fleet with %d and /bin/sh", s.Users, imagespec.FleetUID)
	}
	if u := parse(t, head+"users: [{name: fleet}]\n", "").Users[0]; u.UID != 1000 {
		t.Errorf("fleet of another profile = %+v, want 1000", u)
	}
	if s.Digest() == parse(t, strings.Replace(text, "90m", "91m", 1), imagespec.ProfileServer).Digest() {
		t.Error("Digest does not depend on server")
	}
}

func TestDigest(t *testing.T) {
	base := parse(t, full, "").Digest()
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(base) {
		t.Errorf("Digest = %q, want 64 hexadecimal digits", base)
	}
	same := map[string]string{
		"comments and order": "# x\n" + strings.Replace(full, "dev: true\n", "", 1) + "dev: true\n",
		"outputs":            strings.Replace(full, "[qcow2]", "[raw]", 1),
		"units of sizes":     strings.Replace(full, "65536KiB", "64MiB", 1),
	}
	for what, text := range same {
		if got := parse(t, text, "").Digest(); got != base {
			t.Errorf("Digest with other %s = %s, want it unchanged", what, got)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(full), "\n") {
		if strings.HasPrefix(line, "outputs") || strings.HasPrefix(line, "files") || strings.HasPrefix(line, "units") || strings.HasPrefix(line, "users") || strings.HasPrefix(line, "name") {
			continue
		}
		s, err := imagespec.Parse("d.yaml", []byte(strings.Replace(full, line+"\n", "", 1)), "")
		if err == nil && s.Digest() == base {
			t.Errorf("Digest does not depend on %q", line)
		}
	}
	if a, b := parse(t, head, ""), parse(t, head+"users: []\nfiles: []\nremove: {paths: []}\n", ""); a.Digest() != b.Digest() {
		t.Error("Digest of empty lists differs from that of none")
	}
	if a, b := parse(t, head, "AB"), parse(t, head, "Static"); a.Digest() == b.Digest() {
		t.Error("Digest does not depend on the profile")
	}
}

func TestSupported(t *testing.T) {
	text := head + "profiles: {EC2: {}, RPI: {arch: arm64}, RPI5: {}, update-server: {}, mine: {}}\n"
	for profile, want := range map[string]bool{"": true, "AB": true, "Static": true, "mine": true, "EC2": false, "RPI": false, "RPI5": false, "update-server": true} {
		if err := parse(t, text, profile).Supported(); (err == nil) != want {
			t.Errorf("Supported of profile %q = %v, want %v", profile, err, want)
		}
	}
	if err := parse(t, head+"arch: arm64\n", "").Supported(); err == nil || !strings.Contains(err.Error(), "arm64") {
		t.Errorf("Supported of arm64 = %v, want an error that names it", err)
	}
}

func TestSetVersion(t *testing.T) {
	s := parse(t, head, "")
	if err := s.SetVersion("2.0~rc1"); err != nil || s.BaseName() != "eos-2.0~rc1" {
		t.Errorf("SetVersion(2.0~rc1) = %v and name %s, want eos-2.0~rc1", err, s.BaseName())
	}
	for _, v := range []string{"", "a", "1/2", "1:2", "1 2", "../1"} {
		if err := s.SetVersion(v); err == nil {
			t.Errorf("SetVersion(%q) = nil, want an error", v)
		}
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"/usr/share/doc/**", "/usr/share/doc/a", true},
		{"/usr/share/doc/**", "/usr/share/doc/a/b", true},
		{"/usr/share/doc/**", "/usr/share/doc", false},
		{"/usr/share/doc/**", "/usr/share/docs/a", false},
		{"/usr/**/LICENSE", "/usr/LICENSE", true},
		{"/usr/**/LICENSE", "/usr/a/b/LICENSE", true},
		{"/usr/**/LICENSE", "/usr/a/b/LICENSE.txt", false},
		{"/**/a/**/b", "/x/a/y/b", true},
		{"/**/a/**/b", "/x/y/b", false},
		{"/etc/*.conf", "/etc/a.conf", true},
		{"/etc/*.conf", "/etc/a/b.conf", false},
		{"/etc/?", "/etc/a", true},
		{"/etc", "/etc", true},
		{"/etc", "/etc/a", false},
	}
	for _, tt := range tests {
		if got := imagespec.Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := imagespec.Size(rapid.Int64Range(1, 1<<40).Draw(t, "KiB")) * imagespec.KiB
		got, err := imagespec.ParseSize(want.String())
		if err != nil || got != want {
			t.Fatalf("ParseSize(%q) = %v, %v, want %v", want.String(), got, err, want)
		}
	})
}

func TestMode(t *testing.T) {
	s := parse(t, head+"files: [{path: /a, content: x, mode: 04755}, {path: /b, content: x, mode: \"0o1777\"}, {path: /c, content: x, mode: \"0000\"}]\n", "")
	want := []fs.FileMode{0o755 | fs.ModeSetuid, 0o777 | fs.ModeSticky, 0}
	for i, f := range s.Files {
		if f.Mode.FileMode() != want[i] {
			t.Errorf("mode of %s = %v, want %v", f.Path, f.Mode.FileMode(), want[i])
		}
	}
}

// Whatever a file holds: no panic, every fault has its line, and what is accepted is
// accepted again with the same digest.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full), "")
	f.Add([]byte(head), "Static")
	for _, tt := range bad {
		text, whole := strings.CutPrefix(tt.text, "!")
		if !whole {
			text = head + tt.text
		}
		f.Add([]byte(text), "AB")
	}
	f.Fuzz(func(t *testing.T, data []byte, profile string) {
		s, err := imagespec.Parse("d.yaml", data, profile)
		if err != nil {
			ps := imagespec.Problems(err)
			if len(ps) == 0 {
				t.Errorf("Parse = %v, want Problems", err)
			}
			for _, p := range ps {
				if p.Line < 1 || p.What == "" {
					t.Errorf("Parse = %+v, want a line and what is wrong", p)
				}
			}
			return
		}
		again, err := imagespec.Parse("d.yaml", data, profile)
		if err != nil || again.Digest() != s.Digest() {
			t.Errorf("Parse again = %v, want the same", err)
		}
		if s.Name == "" || s.Version == "" || s.Class == "" || len(s.Packages) == 0 || strings.ContainsAny(s.BaseName(), "/\n") {
			t.Errorf("Parse accepted %+v", s)
		}
	})
}
