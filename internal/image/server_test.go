package image

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/origin"
	"github.com/OSInside/eos/internal/update"
	osfiles "github.com/OSInside/eos/os"
)

const serverDescription = `name: eos
class: generic-x86_64
version: 1.0.0
packages: [systemd]
update: {server: "https://updates.example.com/eos", limit_rate: 1MiB}
profiles:
  update-server:
    users:
      - {name: fleet, ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4 a@b"]}
    files:
      - {path: /etc/origin.asc, content: "key"}
    server:
      images:
        - {image: "https://h/EOS.raw.xz", name: EOS.aarch64-RPI-TW.raw, keyring: /etc/origin.asc}
        - {image: "https://h/ALP.raw.xz", name: EOS.aarch64-RPI-ALP.raw}
      mirror: https://h/eos
      interval: 90m
      certificate: /srv/www/fleet/tls/cert.pem
      key: /srv/www/fleet/tls/key.pem
`

// composed puts an image together on a root that has only what that needs.
func composed(t *testing.T, text, profile string) (*tree, error) {
	t.Helper()
	s, err := imagespec.Parse("d.yaml", []byte(text), profile)
	if err != nil {
		t.Fatal(err)
	}
	tr := accountTree()
	tr.write("/usr/lib/os-release", 0o644, []byte("ID=debian\n"))
	tr.write(unitDir+"/systemd-boot-check-no-failures.service", 0o644, []byte("[Install]\nRequiredBy=boot-complete.target\n"))
	in := &inputs{spec: s, epoch: time.Unix(0, 0)}
	return tr, tr.compose(in)
}

func TestServer(t *testing.T) {
	tr, err := composed(t, serverDescription, imagespec.ProfileServer)
	if err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		t.Helper()
		b, err := tr.read(name)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if err := fs.WalkDir(osfiles.UpdateServer(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			text("/" + p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"os-update-serve.service", "os-fetch.timer"} {
		if n := tr.get(localDir + "/multi-user.target.wants/" + unit); n == nil || n.link != unitDir+"/"+unit {
			t.Errorf("%s is not enabled: %+v", unit, n)
		}
	}
	for file, want := range map[string]string{
		"/etc/passwd": fmt.Sprintf("os-update:x:601:601:EOS update server:/srv/www/fleet:/usr/sbin/nologin\n"+
			"fleet:x:%d:602:EOS devices that update over ssh:/srv/www/fleet:/bin/sh\n", imagespec.FleetUID),
		"/etc/shadow":                      "os-update:*:0:0:99999:7:::\nfleet:*:0:0:99999:7:::\n",
		"/etc/group":                       "os-update:x:601:\nfleet:x:602:\n",
		"/etc/ssh/authorized_keys.d/fleet": "a@b\n",
		serverSettings: "OS_CHECK_INTERVAL=5400s\n" +
			"OS_SERVE_OPTIONS=--tls-cert /srv/www/fleet/tls/cert.pem --tls-key /srv/www/fleet/tls/key.pem\n",
		unitDir + `/dev-disk-by\x2dlabel-eos\x2dfleet.device.d/10-eos.conf`: "JobRunningTimeoutSec=20s",
	} {
		if got := text(file); !strings.Contains(got, want) {
			t.Errorf("%s = %q, want %q in it", file, got, want)
		}
	}
	if tr.get("/home/fleet") != nil {
		t.Error("fleet has a home besides its own")
	}
	var folders []string
	for _, p := range tr.below("/srv") {
		n := tr.get(p)
		folders = append(folders, fmt.Sprintf("%s %c %o %d:%d", p, n.typ, n.mode, n.uid, n.gid))
	}
	dir := string(rune(tar.TypeDir))
	if diff := cmp.Diff([]string{
		"/srv/www " + dir + " 755 0:0", "/srv/www/fleet " + dir + " 755 0:0", "/srv/www/fleet/authorized_keys " + dir + " 755 0:0",
		"/srv/www/fleet/os-images " + dir + " 755 601:601", "/srv/www/fleet/repository " + dir + " 755 601:601",
		"/srv/www/fleet/ssh " + dir + " 700 0:0",
	}, folders); diff != "" {
		t.Errorf("folders differ (-want +got):\n%s", diff)
	}

	// Both programs read what the build writes.
	config := text("/etc/os-update.yml")
	if u, err := update.ParseConfig("os-update.yml", []byte(config)); err != nil || u.Server != "https://updates.example.com/eos" || u.LimitRate != 1<<20 {
		t.Errorf("os-update reads %+v, %v", u, err)
	}
	c, err := origin.ParseConfig("os-update.yml", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	want := origin.Config{Mirror: "https://h/eos", Update: []origin.Source{
		{Image: "https://h/EOS.raw.xz", Name: "EOS.aarch64-RPI-TW.raw", Keyring: "/etc/origin.asc"},
		{Image: "https://h/ALP.raw.xz", Name: "EOS.aarch64-RPI-ALP.raw"},
	}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("os-update-daemon reads something else (-want +got):\n%s", diff)
	}
}

// TestNoServer: nothing of it is in an image that is none.
func TestNoServer(t *testing.T) {
	tr, err := composed(t, serverDescription, imagespec.ProfileAB)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.WalkDir(osfiles.UpdateServer(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && tr.get("/"+p) != nil {
			t.Errorf("the image of a device has %s", p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range tr.names() {
		if strings.Contains(p, "fleet") || strings.Contains(p, "os-fetch") || strings.Contains(p, "daemon") {
			t.Errorf("the image of a device has %s", p)
		}
	}
	for _, file := range []string{"/etc/passwd", "/etc/group", "/etc/os-update.yml"} {
		b, err := tr.read(file)
		if err != nil || strings.Contains(string(b), "fleet") || strings.Contains(string(b), "mirror") {
			t.Errorf("%s = %q, %v", file, b, err)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	if _, err := composed(t, strings.Replace(serverDescription, "keyring: /etc/origin.asc", "keyring: /etc/none.asc", 1), imagespec.ProfileServer); err == nil ||
		!strings.Contains(err.Error(), "no file /etc/none.asc") {
		t.Errorf("a keyring that is not there: %v", err)
	}
	tr := accountTree()
	passwd, err := tr.read("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for row, want := range map[string]string{"fleet:x:34:34::/:/bin/sh": "a package made", "web2:x:601:601::/:/bin/sh": "601 belongs to web2"} {
		tr.rewrite("/etc/passwd", slices.Concat(passwd, []byte(row+"\n")))
		a, err := tr.readAccounts()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.addServer(time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("addServer beside %s: %v, want %q", row, err, want)
		}
	}
}
