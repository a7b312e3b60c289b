package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/oci"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// podmanSpec is a description with podman, and with more YAML behind it.
func podmanSpec(t *testing.T, dir, more string) *imagespec.Spec {
	t.Helper()
	file := filepath.Join(dir, "d.yaml")
	text := "name: a\nclass: b\nversion: 1\npackages: [podman]\n" + more
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := imagespec.Load(file, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An image with podman has an empty store, podman is told of it, and nothing comes from a
// network by default.
func TestImageWithPodman(t *testing.T) {
	tr := newTree()
	tr.write("/etc/containers/registries.conf.d/shortnames.conf", 0o644, []byte("x"))
	tr.write("/etc/containers/policy.json", 0o644, []byte("x"))
	if err := tr.layPodman(); err != nil {
		t.Fatal(err)
	}
	b := &build{Options: Options{Spec: podmanSpec(t, t.TempDir(), ""), CacheDir: t.TempDir()}}
	if err := b.addContainers(t.Context(), tr); err != nil {
		t.Fatal(err)
	}
	if tr.get(shortNames) != nil {
		t.Error("short names of public registries are left")
	}
	for _, p := range []string{"overlay-images/images.json", "overlay-layers/layers.json"} {
		if text, err := tr.read(imagestore.Dir + "/" + p); err != nil || string(text) != "[]" {
			t.Errorf("%s = %q, %v, want an empty table", p, text, err)
		}
	}
	conf, err := tr.read("/etc/containers/storage.conf")
	if err != nil || !strings.Contains(string(conf), `additionalimagestores = ["`+imagestore.Dir+`"]`) {
		t.Errorf("storage.conf = %q, %v, want the store in it", conf, err)
	}
	text, err := tr.read("/etc/containers/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	type rules []struct{ Type string }
	var policy struct {
		Default    rules
		Transports map[string]map[string]rules
	}
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	if len(policy.Default) != 1 || policy.Default[0].Type != "reject" || policy.Transports["docker"] != nil || policy.Transports["atomic"] != nil {
		t.Errorf("policy.json = %s, want that nothing from a network is accepted", text)
	}
	if policy.Transports["containers-storage"] == nil || policy.Transports["oci-archive"] == nil {
		t.Errorf("policy.json = %s, want that files of the device are accepted", text)
	}

	// A file of the description wins.
	tr.write("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	tr.write("/etc/group", 0o644, []byte("root:x:0:\n"))
	own := podmanSpec(t, t.TempDir(), "files: [{path: /etc/containers/policy.json, content: own}]\n")
	if err := tr.addFiles(own.Files, own.SourcePath); err != nil {
		t.Fatal(err)
	}
	if text, err := tr.read("/etc/containers/policy.json"); err != nil || string(text) != "own" {
		t.Errorf("policy.json = %q, %v, want that of the description", text, err)
	}

	// Without podman there is nothing of that.
	b.Spec.Packages, tr = nil, newTree()
	if err := b.addContainers(t.Context(), tr); err != nil || len(tr.nodes) != 1 {
		t.Errorf("addContainers without podman: %v, and %d files", err, len(tr.nodes)-1)
	}
}

// TestStoreInSlot follows a store through the file system of a slot: what overlayfs and
// containers need of it comes out again.
func TestStoreInSlot(t *testing.T) {
	tools := toolstreetest.Open(t)
	toolstreetest.NeedRoot(t) // to unpack devices and trusted attributes
	type member = imagestoretest.Member
	img := imagestoretest.Image(t, imagestoretest.Layer(t,
		member{Header: tar.Header{Name: "b/.wh..wh..opq"}},
		member{Header: tar.Header{Name: "b/cap", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}},
		member{Header: tar.Header{Name: "c", Mode: 0o4711, Uid: 70000, Gid: 5, ModTime: time.Unix(1_600_000_000, 0)}, Content: "x"},
		member{Header: tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "c"}},
		member{Header: tar.Header{Name: ".wh.gone"}},
	))
	cache := t.TempDir()
	tr := newTree()
	layers, err := imagestore.Write(storeTree{tr}, cache, []imagestore.Image{{Names: []string{"x"}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	tr.clamp(time.Unix(1_500_000_000, 0))
	digest, err := tr.digest()
	if err != nil {
		t.Fatal(err)
	}
	path, err := squash(t.Context(), tools, tr, digest, 3, 1_500_000_000, cache, false)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := command.Run(t.Context(), tools.Command("unsquashfs", "-q", "-n", "-xattrs", "-d", root, path)); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(root + imagestore.Dir + "/overlay/*/diff")
	if err != nil || len(found) != 1 {
		t.Fatalf("layers %v, %v, want one", found, err)
	}
	diff := found[0]
	for name, attr := range map[string]string{"b": "trusted.overlay.opaque", "b/cap": "security.capability"} {
		if n, err := unix.Lgetxattr(filepath.Join(diff, name), attr, make([]byte, 100)); n <= 0 || err != nil {
			t.Errorf("%s has no %s: %v", name, attr, err)
		}
	}
	stat := func(name string) (st syscall.Stat_t) {
		t.Helper()
		if err := syscall.Lstat(filepath.Join(diff, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := stat("gone"); st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
		t.Errorf("a file that is gone has mode %o and device %d, want a character device 0:0", st.Mode, st.Rdev)
	}
	a, c := stat("a"), stat("c")
	if a.Ino != c.Ino || c.Nlink != 2 || c.Uid != 70000 || c.Gid != 5 || c.Mode&0o7777 != 0o4711 || c.Mtim.Sec != 1_600_000_000 {
		t.Errorf("a is %+v and c %+v, want one file with the attributes of the layer", a, c)
	}
	if st := stat(".."); st.Mtim.Sec != 1_500_000_000 {
		t.Errorf("a folder of the store is of %d, want the time of the image", st.Mtim.Sec)
	}
}

// TestContainersOfADescription adds one from a folder and one from an archive; the error of
// one that cannot be had names it.
func TestContainersOfADescription(t *testing.T) {
	dir := t.TempDir()
	img := imagestoretest.Image(t, imagestoretest.Layer(t, imagestoretest.Member{Header: tar.Header{Name: "a"}, Content: "a"}))
	f, err := os.Create(filepath.Join(dir, "a.oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(oci.WriteArchive(f, img, "localhost/a:latest"), f.Close()); err != nil {
		t.Fatal(err)
	}
	spec := podmanSpec(t, dir, "containers: [{name: one, aliases: [two], archive: a.oci.tar}]\n")
	tr := newTree()
	b := &build{Options: Options{Spec: spec, CacheDir: t.TempDir()}}
	if err := b.addContainers(t.Context(), tr); err != nil {
		t.Fatal(err)
	}
	defer b.layers.Close()
	if text, err := tr.read(imagestore.Dir + "/overlay-images/images.json"); err != nil || !strings.Contains(string(text), `"names":["localhost/one:latest","localhost/two:latest"]`) {
		t.Errorf("images.json = %s, %v, want both names", text, err)
	}
	spec.Containers[0].Archive = "d.yaml"
	if err := b.addContainers(t.Context(), newTree()); err == nil || !strings.Contains(err.Error(), "add container image one: open container archive") {
		t.Errorf("addContainers of no archive: %v, want an error with its name", err)
	}
}

// TestBuildContainer builds the base of delta containers twice, the second time without the
// cache of its layer.
func TestBuildContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("installs packages")
	}
	spec, err := imagespec.LoadContainer("../../apps/basesystem.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := toolstree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	first, err := BuildContainer(t.Context(), ContainerOptions{Spec: spec, OutDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
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
	second, err := BuildContainer(t.Context(), ContainerOptions{Spec: spec, OutDir: t.TempDir(), CacheDir: empty})
	if err != nil {
		t.Fatal(err)
	}
	a, errA := hashFile(first.Path)
	b, errB := hashFile(second.Path)
	if errA != nil || errB != nil || a != b {
		t.Errorf("two builds give different archives: %s %v, %s %v", a, errA, b, errB)
	}
	img, err := oci.OpenArchive(first.Path, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	tree := imagestoretest.Tree{}
	layers, err := imagestore.Write(tree, empty, []imagestore.Image{{Names: []string{"basesystem"}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	id, err := img.ConfigFile()
	if err != nil || len(id.RootFS.DiffIDs) != 1 || id.Config.Cmd[0] != "/bin/bash" {
		t.Fatalf("configuration %+v, %v, want one layer and bash", id, err)
	}
	diff := imagestore.Dir + "/overlay/" + id.RootFS.DiffIDs[0].Hex + "/diff"
	for _, p := range []string{"/usr/bin/bash", "/usr/share/ca-certificates", "/usr/share/zoneinfo/UTC", "/var/lib/dpkg/status", "/usr/share/doc/bash/copyright"} {
		if _, ok := tree[diff+p]; !ok {
			t.Errorf("the container has no %s", p)
		}
	}
	for _, p := range []string{"/usr/bin/apt", "/usr/bin/dpkg", "/usr/bin/perl", "/boot", "/var/log", "/etc/machine-id", "/etc/resolv.conf"} {
		if _, ok := tree[diff+p]; ok {
			t.Errorf("the container has %s", p)
		}
	}
}
