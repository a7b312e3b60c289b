package image

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/imagespec"
)

const sampleUnit = `[Unit]
Description=x
WantedBy=not-here.target

[Install]
WantedBy=multi-user.target \
  other.target
RequiredBy=boot-complete.target
Alias=alias.service
Also=b.socket
`

func TestEnable(t *testing.T) {
	tr := newTree()
	tr.write(unitDir+"/a.service", 0o644, []byte(sampleUnit))
	tr.write(unitDir+"/b.socket", 0o644, []byte("[Install]\nWantedBy=sockets.target\n"))
	tr.write(unitDir+"/t@.service", 0o644, []byte("[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n"))
	for _, name := range []string{"a.service", "t@ttyS0.service", "t@.service"} {
		if err := tr.enable(name); err != nil {
			t.Fatalf("enable(%s): %v", name, err)
		}
	}
	var got []string
	for _, p := range tr.below(localDir) {
		if n := tr.get(p); n.link != "" {
			got = append(got, strings.TrimPrefix(p, localDir+"/")+" -> "+n.link)
		}
	}
	want := []string{
		"alias.service -> " + unitDir + "/a.service",
		"boot-complete.target.requires/a.service -> " + unitDir + "/a.service",
		"getty.target.wants/t@tty1.service -> " + unitDir + "/t@.service",
		"getty.target.wants/t@ttyS0.service -> " + unitDir + "/t@.service",
		"multi-user.target.wants/a.service -> " + unitDir + "/a.service",
		"other.target.wants/a.service -> " + unitDir + "/a.service",
		"sockets.target.wants/b.socket -> " + unitDir + "/b.socket",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("links differ (-want +got):\n%s", diff)
	}

	tr.mask("a.service")
	for _, p := range tr.below(localDir) {
		if strings.HasSuffix(p, ".wants/a.service") || strings.HasSuffix(p, ".requires/a.service") {
			t.Errorf("after mask %s is still there", p)
		}
	}
	if err := tr.enable("a.service"); err == nil || !strings.Contains(err.Error(), "masked") {
		t.Errorf("enable of a masked unit: %v, want an error that says so", err)
	}
}

func TestEnableRefuses(t *testing.T) {
	tr := newTree()
	tr.write(unitDir+"/static.service", 0o644, []byte("[Service]\nExecStart=true\n"))
	tr.write(unitDir+"/t@.service", 0o644, []byte("[Install]\nWantedBy=x.target\n"))
	for name, want := range map[string]string{
		"none.service":   "no package of the image has it",
		"static.service": "no [Install] section",
		"t@.service":     "name an instance",
	} {
		if err := tr.enable(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("enable(%s) = %v, want an error with %q", name, err, want)
		}
	}
}

func accountTree() *tree {
	tr := newTree()
	tr.write("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\nold:x:50:50::/:/bin/sh\n"))
	tr.write("/etc/shadow", 0o640, []byte("web:!*:20000::::::\nold:$y$secret:20001:0:99999:7:::\n"))
	tr.write("/etc/group", 0o644, []byte("root:x:0:\nweb:x:33:\nold:x:50:\n"))
	tr.write("/etc/gshadow", 0o640, []byte("root:*::\n"))
	tr.get("/etc/shadow").gid = 42
	return tr
}

func TestAccountsAreLocked(t *testing.T) {
	tr := accountTree()
	in := &inputs{spec: &imagespec.Spec{}, sshKeys: []string{"ssh-ed25519 AAAA me"}, epoch: time.Unix(86400*100, 0)}
	if err := tr.setAccounts(in); err != nil {
		t.Fatal(err)
	}
	got, err := tr.read("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	want := "web:!*:100::::::\nold:*:100:0:99999:7:::\nroot:*:100:0:99999:7:::\n"
	if string(got) != want {
		t.Errorf("shadow = %q, want %q", got, want)
	}
	if n := tr.get("/etc/shadow"); n.mode != 0o640 || n.gid != 42 {
		t.Errorf("shadow has mode %o group %d, want what it had", n.mode, n.gid)
	}
	if names := tr.below("/etc/ssh"); names != nil {
		t.Errorf("an image that is not for development has %q", names)
	}
}

func TestUsers(t *testing.T) {
	tr := accountTree()
	in := &inputs{
		spec: &imagespec.Spec{Dev: true, Users: []imagespec.User{
			{Name: "root", Shell: "/bin/bash", PasswordHash: "$y$x", SSHKeys: []string{"key-a"}},
			{Name: "op", Shell: "/bin/sh", UID: 1000},
		}},
		sshKeys: []string{"key-b"}, epoch: time.Unix(0, 0),
	}
	if err := tr.setAccounts(in); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"/etc/passwd":                     "op:x:1000:1000::/home/op:/bin/sh\n",
		"/etc/shadow":                     "root:$y$x:0:0:99999:7:::\n",
		"/etc/group":                      "op:x:1000:\n",
		"/etc/ssh/authorized_keys.d/root": "key-a\nkey-b\n",
	} {
		got, err := tr.read(file)
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s = %q, %v, want %q in it", file, got, err, want)
		}
	}
	for _, u := range []imagespec.User{
		{Name: "web", UID: 1001}, // a package has it with another number
		{Name: "new", UID: 33},   // the number belongs to web
	} {
		a, err := accountTree().readAccounts()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.set(u, time.Unix(0, 0)); err == nil {
			t.Errorf("set(%s, %d): no error", u.Name, u.UID)
		}
	}
}

func TestRemovePackages(t *testing.T) {
	tr := newTree()
	tr.symlink("/bin", "usr/bin")
	tr.write("/usr/bin/a", 0o755, nil)
	tr.write("/usr/bin/b", 0o755, nil)
	tr.write("/usr/share/a/x", 0o644, nil)
	tr.write("/usr/share/both", 0o644, nil)
	tr.write(dpkgDir+"/info/a:amd64.list", 0o644, []byte("/.\n/usr\n/usr/share\n/usr/share/a\n/usr/share/a/x\n/bin/a\n/usr/share/both\n"))
	tr.write(dpkgDir+"/info/b.list", 0o644, []byte("/.\n/usr\n/usr/bin\n/usr/bin/b\n/usr/share\n/usr/share/both\n"))
	gone, err := tr.removePackages([]string{"a", "none"}, false)
	if err != nil || !slices.Equal(gone, []string{"a"}) {
		t.Fatalf("removePackages = %q, %v, want a", gone, err)
	}
	var got []string
	got = append(got, tr.below("/usr")...)
	want := []string{"/usr/bin", "/usr/bin/b", "/usr/share", "/usr/share/both"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left over differs (-want +got):\n%s", diff)
	}
	if _, err := tr.removePackages([]string{"none"}, true); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("removePackages of one that is not there: %v, want an error that names it", err)
	}
	status := "Package: a\nVersion: 1\n\nPackage: b\nVersion: 2\n"
	if got, want := filterStatus(status, gone), "Package: b\nVersion: 2\n"; got != want {
		t.Errorf("filterStatus = %q, want %q", got, want)
	}
}

func TestCommandLine(t *testing.T) {
	s := imagespec.Default()
	s.Kernel.CommandLine = "console=ttyS0"
	got := commandLine(&s)
	for _, word := range []string{"ro", "panic=10", "eos.watchdog=180", "console=ttyS0"} {
		if !slices.Contains(strings.Fields(got), word) {
			t.Errorf("commandLine = %q, want the word %s", got, word)
		}
	}
	for _, word := range []string{"eos.slot=", "eos.disk=", "COMMIT_UPDATE"} {
		if strings.Contains(got, word) {
			t.Errorf("commandLine = %q: %s depends on where the image is started from", got, word)
		}
	}
}

func TestNormaliseKeepsLicencesOnly(t *testing.T) {
	tr := newTree()
	for _, p := range []string{
		"/usr/share/doc/a/copyright", "/usr/share/doc/a/examples/b/copyright",
		"/usr/share/doc/c/README", "/etc/ssh/ssh_host_rsa_key", "/dev/null",
		"/usr/lib/python3/__pycache__/x.pyc", "/etc/machine-id",
	} {
		tr.write(p, 0o644, []byte("x"))
	}
	tr.normalise()
	if err := tr.checkWhole(); err != nil {
		t.Errorf("checkWhole after normalise: %v", err)
	}
	var got []string
	for _, p := range tr.names() {
		if tr.get(p).size > 0 {
			got = append(got, p)
		}
	}
	want := []string{"/usr/share/doc/a/copyright"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files left differ (-want +got):\n%s", diff)
	}
}
