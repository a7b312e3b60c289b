package image

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// buildMinimal builds images/minimal.yaml and returns the result.
func buildMinimal(t *testing.T, o Options) *Result {
	t.Helper()
	spec, err := imagespec.Load("../../images/minimal.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	o.Spec = spec
	r, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// signingKeys makes the keys of an installation.
func signingKeys(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"image", "root", "targets", "online"} {
		if err := key.Generate(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := repository.WriteRoot(dir, time.Now().AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func devicePrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "../../cmd/eos-init", "../../cmd/os-update")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build device programs: %v: %s", err, out)
	}
	return dir
}

// TestBuild builds the minimal image twice, the second time without the cache
// of the late stages, and looks into what came out.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a whole image twice")
	}
	keys, programs := signingKeys(t), devicePrograms(t)
	cache, err := toolstree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	first := buildMinimal(t, Options{KeysDir: keys, BinDir: programs, OutDir: t.TempDir()})

	// Another cache, with the fetched packages only.
	empty := t.TempDir()
	found, err := filepath.Glob(filepath.Join(cache, "root-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		if err := os.Symlink(p, filepath.Join(empty, filepath.Base(p))); err != nil {
			t.Fatal(err)
		}
	}
	second := buildMinimal(t, Options{KeysDir: keys, BinDir: programs, OutDir: t.TempDir(), CacheDir: empty, Fresh: true})
	for _, kind := range []string{"slot", "raw", "sbom"} {
		a, errA := hashFile(first.Path(kind))
		b, errB := hashFile(second.Path(kind))
		if errA != nil || errB != nil || a != b {
			t.Errorf("two builds give different %s files: %s %v, %s %v", kind, a, errA, b, errB)
		}
	}
	if first.Initramfs > 8<<20 {
		t.Errorf("the initramfs has %d bytes, want at most 8 MiB", first.Initramfs)
	}

	tools, err := toolstree.Open(context.Background(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.tar")
	writeRoot(t, tools, first.Path("slot"), root)
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	checkSecrets(t, tr, keys)
	checkRoot(t, tr)
	// The slot image is complete in itself: it has the boot loader that is on the ESP.
	loader, err := tr.read("/usr/lib/eos/firmware/EFI/BOOT/BOOTX64.EFI")
	if err != nil {
		t.Fatal(err)
	}
	if onESP := toolstreetest.Output(t, tools, "mtype", "-i", first.Path("raw")+"@@1M", "::/EFI/BOOT/BOOTX64.EFI"); onESP != string(loader) {
		t.Errorf("the boot loader in the root has %d bytes and is not the one on the ESP, which has %d", len(loader), len(onESP))
	}
}

// writeRoot turns a slot's file system into a tar archive, with tools that know
// nothing of this package.
func writeRoot(t *testing.T, tools *toolstree.Tree, slot, out string) {
	t.Helper()
	dir := t.TempDir()
	script := `unsquashfs -q -n -no-xattrs -ignore-errors -d "$1/root" "$2" >/dev/null || [ $? = 2 ]
tar -C "$1/root" --sort=name --exclude=./usr/lib/modules -cf "$3" .`
	if err := command.Run(context.Background(), tools.Command("sh", "-c", script, "sh", dir, slot, out)); err != nil {
		t.Fatal(err)
	}
}

var (
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	passwords  = regexp.MustCompile(`(?m)^[^:]+:([^:]*):`)
)

// checkSecrets looks for anything that would let somebody in, or that two
// devices would share.
func checkSecrets(t *testing.T, tr *tree, keys string) {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	own, err := key.LoadPrivate(filepath.Join(keys, "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, p := range tr.names() {
		n := tr.get(p)
		if strings.Contains(p, "authorized_keys") || strings.Contains(p, "ssh_host_") {
			t.Errorf("the image has %s", p)
		}
		if n.typ != tar.TypeReg {
			continue
		}
		files++
		data, err := n.bytes()
		if err != nil {
			t.Fatal(err)
		}
		// Programs name the header of a key file in their text, followed by no key.
		if !bytes.HasPrefix(data, []byte("\x7fELF")) && !bytes.HasPrefix(data, []byte("MZ")) && privateKey.Match(data) {
			t.Errorf("%s holds a private key", p)
		}
		if bytes.Contains(data, own.Key.Seed()) {
			t.Errorf("%s holds the key that signs images", p)
		}
		if len(host) > 6 && bytes.Contains(data, []byte(host)) {
			t.Errorf("%s holds the name of the machine that built the image", p)
		}
	}
	if files < 1000 {
		t.Errorf("looked at %d files only, that is not a whole root", files)
	}
	shadow, err := tr.read("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range passwords.FindAllStringSubmatch(string(shadow), -1) {
		if !strings.HasPrefix(m[1], "*") && !strings.HasPrefix(m[1], "!") {
			t.Errorf("shadow: %q lets somebody in", m[0])
		}
	}
	if id, err := tr.read("/etc/machine-id"); err != nil || len(id) != 0 {
		t.Errorf("machine-id = %q, %v, want an empty file", id, err)
	}
}

// checkRoot looks for what a device cannot be without.
func checkRoot(t *testing.T, tr *tree) {
	t.Helper()
	for _, p := range []string{
		"/etc/os-update.yml", "/usr/bin/os-update", "/usr/lib/eos/uki.efi", "/usr/lib/eos/firmware/EFI/BOOT/BOOTX64.EFI",
		"/usr/share/eos/build.json", "/usr/share/eos/dpkg-status", "/usr/share/eos/keys/image.pub",
		"/usr/share/eos/root.json", "/usr/lib/systemd/system/os-update-commit.service",
	} {
		if n := tr.get(p); n == nil || n.size == 0 {
			t.Errorf("the image has no %s", p)
		}
	}
	for _, p := range []string{"/dev", "/proc", "/run", "/sys", "/tmp", "/var", "/boot"} {
		if below := tr.below(p); len(below) > 0 {
			t.Errorf("%s of the image holds %q, want nothing", p, below[0])
		}
	}
	for _, link := range []string{
		"/etc/systemd/system/boot-complete.target.requires/systemd-boot-check-no-failures.service",
		"/etc/systemd/system/multi-user.target.wants/os-update-commit.service",
		"/etc/systemd/system/local-fs.target.requires/var.mount",
	} {
		if n := tr.get(link); n == nil || tr.get(n.link) == nil {
			t.Errorf("%s does not lead to a unit", link)
		}
	}
	for _, name := range []string{"serial-getty@.service", "getty@.service"} {
		if n := tr.get("/etc/systemd/system/" + name); n == nil || n.link != "/dev/null" {
			t.Errorf("%s is not masked in an image that is not for development", name)
		}
	}
	release, err := tr.read("/usr/lib/os-release")
	if err != nil || !strings.Contains(string(release), "\nIMAGE_ID=minimal\nIMAGE_VERSION=1.0.0\n") {
		t.Errorf("os-release = %q, %v, want the image's name and version in it", release, err)
	}
	if n := tr.get("/"); n.mode != 0o755 {
		t.Errorf("the root folder has mode %o, want 755", n.mode)
	}
}
