package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/fleet"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/update"
)

// notes keeps what a build says.
type notes struct {
	cli.Progress
	text string
}

func (n *notes) Note(format string, a ...any) { n.text += fmt.Sprintf(format, a...) + "\n" }

// fleetBuild is a build of a description with fleet, up to the root.
func fleetBuild(t *testing.T, settings string, key []byte) (*build, *tree, *notes, error) {
	t.Helper()
	dir := t.TempDir()
	text := "name: eos\nclass: generic-x86_64\nversion: 1.0.0\npackages: [systemd, podman, tini, dmsetup, xfsprogs]\nregistry: {policy: none}\n" + settings
	for name, data := range map[string][]byte{"d.yaml": []byte(text), "id_fleet": key, "podman-pilot": []byte("the pilot"), "fleet": []byte("the program")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := imagespec.Load(filepath.Join(dir, "d.yaml"), "")
	if err != nil {
		t.Fatal(err)
	}
	n := &notes{Progress: cli.NoProgress()}
	b := &build{Options: Options{Spec: spec, BinDir: dir, CacheDir: dir, Progress: n}}
	b.in.spec, b.in.programs = spec, map[string][]byte{}
	if err := b.loadFleet(); err != nil {
		return b, nil, n, err
	}
	tr := accountTree()
	tr.write("/usr/lib/os-release", 0o644, []byte("ID=debian\n"))
	tr.write(unitDir+"/systemd-boot-check-no-failures.service", 0o644, []byte("[Install]\nRequiredBy=boot-complete.target\n"))
	tr.write("/etc/ssl/certs/ca-certificates.crt", 0o644, []byte("authorities"))
	if err := tr.compose(&b.in); err != nil {
		t.Fatal(err)
	}
	err = b.addContainers(t.Context(), tr)
	t.Cleanup(func() { b.layers.Close() })
	return b, tr, n, err
}

// sshKeygen makes a key as its users do.
func sshKeygen(t *testing.T, passphrase string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// inStore returns the files of the store that hold data.
func inStore(t *testing.T, tr *tree, data []byte) (found []string) {
	t.Helper()
	for _, p := range tr.names() {
		n := tr.get(p)
		content, err := io.ReadAll(n.content())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, data) {
			found = append(found, p)
		}
	}
	return found
}

func TestFleet(t *testing.T) {
	key := sshKeygen(t, "")
	_, tr, n, err := fleetBuild(t, "fleet: {key: id_fleet}\n", key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(p string) string {
		t.Helper()
		b, err := tr.read(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	r, err := flake.Parse("fleet", []flake.File{{Path: "fleet.yaml", Text: []byte(text(flake.ShippedDir + "/fleet.yaml"))}})
	if err != nil || !strings.Contains(strings.Join(r.Container.Runtime.Podman, " "), "ca-certificates.crt") {
		t.Errorf("registration %+v, %v, want the authorities of the image in it", r, err)
	}
	if link := tr.get("/usr/bin/fleet"); link == nil || link.link != "podman-pilot" || text("/usr/bin/podman-pilot") != "the pilot" {
		t.Errorf("/usr/bin/fleet is %+v, want a link to the pilot", link)
	}
	c, err := update.ParseConfig("os-update.yml", []byte(text("/etc/os-update.yml")))
	if err != nil || c.PKey != fleet.KeyFile {
		t.Errorf("os-update.yml has the key %q, %v, want %s", c.PKey, err, fleet.KeyFile)
	}
	for _, unit := range []string{"os-update.service", "os-update-confirm.service"} {
		if got := text(unitDir + "/" + unit + ".d/20-fleet.conf"); !strings.Contains(got, "After=registry-rw.service") {
			t.Errorf("%s: %s", unit, got)
		}
		if _, err := tr.findUnit(unit); err != nil {
			t.Error(err)
		}
	}
	if _, err := tr.findUnit("registry-rw.service"); err != nil {
		t.Error(err)
	}
	// The key is in the container's layer, and nowhere else.
	found := inStore(t, tr, bytes.TrimSpace(key))
	if len(found) != 1 || !strings.HasSuffix(found[0], "/diff/etc/fleet/id_fleet") || tr.get(found[0]).mode&0o777 != 0o400 {
		t.Errorf("the key is in %v, want it in the layer alone", found)
	}
	if found := inStore(t, tr, []byte("the program")); len(found) != 1 || !strings.HasSuffix(found[0], "/diff/fleet") {
		t.Errorf("the program is in %v, want it in the layer alone", found)
	}
	if strings.Count(n.text, "\n") != 1 || !strings.Contains(n.text, "every device with this image has this private key") || strings.Contains(n.text, "PRIVATE") {
		t.Errorf("the build says %q, want one line of warning", n.text)
	}
}

func TestFleetWithoutASharedKey(t *testing.T) {
	_, tr, n, err := fleetBuild(t, "fleet: {enroll: true}\n", sshKeygen(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if tr.get("/usr/bin/fleet") == nil || n.text != "" {
		t.Errorf("the build says %q, want the command and no warning", n.text)
	}
	if found := inStore(t, tr, []byte("OPENSSH PRIVATE KEY")); len(found) > 0 {
		t.Errorf("private keys in %v", found)
	}
	_, tr, _, err = fleetBuild(t, "", nil)
	if err != nil || tr.get("/usr/bin/fleet") != nil || tr.get("/usr/bin/podman-pilot") != nil {
		t.Errorf("an image without fleet: %v, and it has the command", err)
	}
}

// What the build would write over is not lost without a word.
func TestFleetIsInTheWay(t *testing.T) {
	for _, path := range []string{"/usr/bin/fleet", "/usr/lib/eos/flakes/fleet.yaml"} {
		_, _, _, err := fleetBuild(t, "fleet: {enroll: true}\nfiles: [{path: "+path+", content: mine}]\n", nil)
		if err == nil || !strings.Contains(err.Error(), "the image has "+path+" already") {
			t.Errorf("build with a file %s of its own = %v", path, err)
		}
	}
}

func TestFleetKeyIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		key  []byte
		want string
	}{
		"passphrase": {sshKeygen(t, "secret"), "passphrase"},
		"public":     {[]byte("ssh-ed25519 AAAA"), "it is a public key"},
		"empty":      {nil, "not an ssh private key"},
	} {
		if _, _, _, err := fleetBuild(t, "fleet: {key: id_fleet}\n", c.key); err == nil || !strings.Contains(err.Error(), "read fleet.key: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
