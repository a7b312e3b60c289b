package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
)

type member = imagestoretest.Member

// capability is what setcap writes for cap_net_raw+ep, and acl an access list that lets user 7
// read.
const (
	capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl        = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
)

// moreImages are those that want something of the host, or have something special.
func moreImages(t *testing.T, file, link func(a, b string) member, dir func(string) member) map[string]v1.Image {
	with := func(m ...member) v1.Image { return imagestoretest.Image(t, imagestoretest.Layer(t, m...)) }
	records := func(name, key, value string) member {
		return member{Header: tar.Header{Name: name, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr." + key: value}}, Content: name}
	}
	rich := []member{
		dir("x/"), file("x/first", "same"), {Header: tar.Header{Name: "x/second", Mode: 0o755, Typeflag: tar.TypeLink, Linkname: "x/first"}},
		{Header: tar.Header{Name: "x/setuid", Mode: 0o4755, Uid: 3, Gid: 4}, Content: "setuid"}, records("x/cap", "security.capability", capability), records("x/note", "user.note", "n"),
		records("x/acl", "system.posix_acl_access", acl), dir("old/"), file("old/one", "1"), file("old/two", "2"), dir("new/"), file("new/a", "a"),
	}
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, "/usr/share/lab/none/%d\n", i)
	}
	return map[string]v1.Image{
		"rich":   imagestoretest.Image(t, imagestoretest.Layer(t, rich...), imagestoretest.Layer(t, dir("new/"), file("new/.wh..wh..opq", ""), file("new/b", "b"))),
		"change": with(dir("old/"), file("old/.wh.one", ""), file("old/three", "3")),
		"wants":  with(file("removed", "/usr/share/lab/file\n/usr/share/lab/none\n/usr/lib/lab/far\n/usr/share/lab/dir\n")),
		"asks":   with(file("systemfiles", "echo /usr/share/lab/asked; ls -d /usr/share/lab/d*\n")),
		"tries": with(file("systemfiles", `for f in /usr/share/lab/x /etc/x /x /usr/x; do (echo x > $f) 2>/dev/null && echo "/etc/written$f"; done
id -u | grep -qx 65534 || echo /etc/root
[ -e /proc/1/root/etc/shadow ] && echo /etc/sees
ls /sys/class/net | grep -qvx lo && echo /etc/network
[ -e /root ] && echo /etc/home
echo /usr/share/lab/asked`)),
		"shadow":     with(file("removed", "/etc/shadow\n")),
		"dots":       with(file("removed", "/usr/../etc/shadow\n")),
		"through":    with(file("removed", "/usr/share/lab/link/shadow\n")),
		"private":    with(file("removed", "/usr/share/lab/secret\n")),
		"linked":     with(link("removed", "/etc/shadow")),
		"linkscript": with(link("systemfiles", "/usr/share/lab/script")),
		"garbage":    with(file("systemfiles", "head -c 1000 /dev/urandom; printf 'a\\0b'\n")),
		"failing":    with(file("systemfiles", "echo /usr/share/lab/asked; exit 3\n")),
		"many":       with(file("removed", many.String())),
	}
}

// putHost writes what images of the lab ask for.
func (l *lab) putHost(t *testing.T) {
	t.Helper()
	dir := l.path("/usr/share/lab")
	if err := errors.Join(os.MkdirAll(dir+"/dir", 0o755), os.MkdirAll(l.path("/usr/lib/lab"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"file": "of the host", "asked": "asked", "dir/in": "in", "secret": "secret", "script": "echo /usr/share/lab/asked"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(dir + "/link")
	if err := errors.Join(os.WriteFile(l.path("/usr/lib/lab/far"), []byte("far"), 0o644), os.Chmod(dir+"/secret", 0o600), os.Chmod(dir+"/file", 0o4755), os.Symlink("/etc", dir+"/link")); err != nil {
		t.Fatal(err)
	}
}

// Containers are stacked in their order, with all that is in them, and with what of the host
// they may have.
func TestDelta(t *testing.T) {
	l := newLab(t)
	l.putHost(t)
	base := "base_container: app"
	l.flake(t, "stacked", "delta", base, "layers: [one, two]")
	l.flake(t, "other", "delta", base, "layers: [two, one]")
	l.flake(t, "rich", "change", base, "layers: [rich]")
	l.flake(t, "wants", "delta", base, "layers: [wants]")
	l.flake(t, "asks", "delta", "base_container: asks", "layers: [app]")
	l.flake(t, "tries", "delta", "base_container: tries", "layers: [app]")
	l.flake(t, "checks", "app", "check_host_dependencies: true")
	const who = "show=/etc/who show=/etc/one show=/etc/two show=/etc/gone show=/etc/delta"
	for _, c := range []struct{ call, out string }{
		{"stacked " + who, "/etc/who 100755 0:0 links 1 \"delta\"\n/etc/one 100755 0:0 links 1 \"one\"\n/etc/two 100755 0:0 links 1 \"two\"\n/etc/gone none\n/etc/delta 100755 0:0 links 1 \"delta\"\n"},
		{"other show=/etc/gone", "/etc/gone 100755 0:0 links 1 \"x\"\n"},
		{"rich show=/x/first show=/x/setuid show=/x/cap show=/x/note show=/x/acl show=/old show=/new",
			"/x/first 100755 0:0 links 2 \"same\"\n/x/setuid 104755 3:4 links 1 \"setuid\"\n" +
				fmt.Sprintf("/x/cap 100644 0:0 links 1 \"x/cap\" security.capability=%x\n/x/note 100644 0:0 links 1 \"x/note\" user.note=6e\n/x/acl 100644 0:0 links 1 \"x/acl\" system.posix_acl_access=%x\n", capability, acl) +
				"/old 40755 0:0 three two\n/new 40755 0:0 b\n"},
		{"wants show=/usr/share/lab/file show=/usr/share/lab/dir show=/lib/lab/far show=/lib show=/usr/share/lab/none",
			"/usr/share/lab/file 100755 0:0 links 1 \"of the host\"\n/usr/share/lab/dir 40755 0:0\n/lib/lab/far 100644 0:0 links 1 \"far\"\n/lib 120777 0:0 -> usr/lib\n/usr/share/lab/none none\n"},
		{"asks show=/usr/share/lab", "/usr/share/lab 40755 0:0 asked dir\n"},
		{"tries show=/usr/share/lab", "/usr/share/lab 40755 0:0 asked\n"},
		{"checks out=x exit=0", "x\n"},
	} {
		l.want(t, c.call, 0, c.out, "")
		l.want(t, c.call, 0, c.out, "") // made by now
	}
	for _, c := range []struct{ image, text string }{
		{"shadow", "/etc/shadow: images may not have it\nhint: host_paths"}, {"dots", "/etc/shadow: images may not have it"},
		{"through", "images may not have it"}, {"private", "not every user can read it"}, {"linked", "/removed is not a plain file"},
	} {
		l.flake(t, "bad", "delta", base, "layers: ["+c.image+"]")
		l.want(t, "bad out=x", 125, "", c.text)
		if c.image != "linked" {
			l.want(t, "bad %ignore_sync_error out=x", 0, "x\n", "left out")
		}
	}
	for image, text := range map[string]string{"linkscript": "/systemfiles is not a plain file", "garbage": "zero byte", "failing": "exit status 3"} {
		l.flake(t, "bad", "delta", "base_container: "+image, "layers: [app]")
		l.want(t, "bad out=x", 125, "", text)
		l.want(t, "bad %ignore_sync_error out=x", 0, "x\n", text)
	}
	l.flake(t, "many", "delta", base, "layers: [many]")
	l.want(t, "many out=x", 0, "x\n", "")
	l.flake(t, "twice", "delta", base, "layers: [one, one]")
	l.want(t, "twice out=x", 125, "", "twice")
	l.flake(t, "loop", "app", base)
	l.want(t, "loop out=x", 125, "", "twice")
	l.nothingLeft(t)
}

// assembled are the images that were put together for flakes.
func (l *lab) assembled(t *testing.T) []string {
	t.Helper()
	return strings.Fields(l.podman(t, "images", "--filter", "reference=localhost/flake.assembled/*", "--format", "{{.Repository}}:{{.Tag}}"))
}

// What changes on the host is in the next call, and old images go; all but one, which may be
// that of the other system.
func TestHostChanges(t *testing.T) {
	l := newLab(t)
	l.putHost(t)
	l.podman(t, append([]string{"rmi", "--force", "--ignore", "none"}, l.assembled(t)...)...)
	l.flake(t, "wants", "delta", "base_container: app", "layers: [wants]")
	running := l.call("wants", "forever")
	_ = l.started(t, running)
	for i := range 4 {
		text := fmt.Sprint("state ", i)
		if err := os.WriteFile(l.path("/usr/share/lab/file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		l.want(t, "wants show=/usr/share/lab/file", 0, fmt.Sprintf("/usr/share/lab/file 100755 0:0 links 1 %q\n", text), "")
		if got := l.assembled(t); len(got) > 3 { // one is in use, of the first state
			t.Errorf("assembled images: %q", got)
		}
	}
	_ = running.Process.Signal(syscall.SIGTERM)
	finish(t, running)
	if err := os.WriteFile(l.path("/usr/share/lab/file"), []byte("last"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.want(t, "wants out=x", 0, "x\n", "")
	if got := l.assembled(t); len(got) != 2 {
		t.Errorf("assembled images: %q, want 2", got)
	}
	l.nothingLeft(t)
}

// Files and archives of the host go into a container, with a base and without.
func TestInclude(t *testing.T) {
	l := newLab(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "lib/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "lib/inc", Mode: 0o640, Uid: 7, Gid: 8}, {Name: "../../etc/up", Mode: 0o600},
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "data"}, {Name: "a/through", Mode: 0o600}, {Name: "b", Typeflag: tar.TypeLink, Linkname: "lib/inc"},
		{Name: "opaque/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.note": "n"}},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(l.dir+"/include.tar", archive.Bytes(), 0o644), os.MkdirAll(l.dir+"/include/sub", 0o755),
		os.WriteFile(l.dir+"/include/sub/f", []byte("f"), 0o4711)); err != nil {
		t.Fatal(err)
	}
	include := fmt.Sprintf("include: {tar: [%s/include.tar], path: [%s/include]}", l.dir, l.dir)
	l.flake(t, "alone", "app", include)
	l.flake(t, "based", "delta", "base_container: app", include)
	for _, name := range []string{"alone", "based"} {
		l.want(t, name+" show=/lib show=/usr/lib/inc show=/etc/up show=/data/through show=/b show=/opaque show="+l.dir+"/include/sub/f", 0,
			"/lib 120777 0:0 -> usr/lib\n/usr/lib/inc 100640 7:8 links 2 \"\"\n/etc/up 100600 0:0 links 1 \"\"\n/data/through 100600 0:0 links 1 \"\"\n/b 100640 7:8 links 2 \"\"\n/opaque 40755 0:0 user.note=6e\n"+
				l.dir+"/include/sub/f 100711 0:0 links 1 \"f\"\n", "")
	}
	if err := os.Remove(l.dir + "/include.tar"); err != nil {
		t.Fatal(err)
	}
	l.want(t, "alone out=x", 125, "", "include.tar: no such file")
	l.nothingLeft(t)
}

// Whoever kills the launcher while it puts a container together spoils nothing.
func TestKilledWhileAssembling(t *testing.T) {
	l := newLab(t)
	l.putHost(t)
	l.flake(t, "cut", "delta", "base_container: asks", "layers: [app, one]")
	images := l.podman(t, "images", "--all", "--quiet")
	for i := range rounds(8) {
		for _, name := range l.assembled(t) {
			l.podman(t, "rmi", "--force", name)
		}
		for _, f := range l.files() {
			if strings.HasPrefix(f, "systemfiles-") {
				os.RemoveAll(l.path("/run/flakes/0/" + f))
			}
		}
		cmd := l.call("cut", "out=x")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 900 * time.Millisecond / time.Duration(rounds(8)))
		if i%2 == 0 {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		} else {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if got := finish(t, cmd); got != 143 && got != 0 {
				t.Errorf("SIGTERM while it is put together: %d", got)
			}
		}
		l.want(t, "cut show=/etc/one", 0, "/etc/one 100755 0:0 links 1 \"one\"\n", "")
	}
	l.nothingLeft(t)
	for _, f := range l.files() {
		if st, err := os.Stat(l.path("/run/flakes/0/" + f)); err == nil && st.IsDir() {
			t.Errorf("folder %s is left", f)
		}
	}
	l.podman(t, "image", "prune", "--force")
	for _, name := range l.assembled(t) {
		l.podman(t, "rmi", name)
	}
	if got := l.podman(t, "images", "--all", "--quiet"); len(strings.Fields(got)) > len(strings.Fields(images)) {
		t.Errorf("images:\n%s, want\n%s", l.podman(t, "images", "--all"), images)
	}
	if left, _ := filepath.Glob(l.path("/var/lib/containers/storage/tmp/*")); len(left) > 0 {
		t.Logf("what the next one removes: %q", left)
	}
}
