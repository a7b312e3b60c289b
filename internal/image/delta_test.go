package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/oci"
)

// deltaBase and deltaApp are two roots that differ in every way there is.
func deltaBase() *tree {
	t := newTree()
	for p, text := range map[string]string{
		"/data/same/kept": "kept", "/data/content": "one", "/data/size": "12", "/data/mode": "m", "/data/owner": "o", "/data/cap": "c",
		"/data/gone": "g", "/data/folder-gone/a": "a", "/data/folder-gone/b/c": "c",
		"/data/file-to-folder": "f", "/data/folder-to-file/x": "x", "/data/folder-to-link/x": "x", "/data/file-to-link": "f",
		"/data/linked/one": "linked", "/data/whole/one": "whole", "/data/split/one": "split",
	} {
		t.write(p, 0o644, []byte(text))
	}
	for p, of := range map[string]string{"/data/linked/two": "/data/linked/one", "/data/whole/two": "/data/whole/one", "/data/split/two": "/data/split/one"} {
		t.put(p, t.get(of).linked())
	}
	t.symlink("/data/link-to-folder", "same")
	t.symlink("/data/link", "same/kept")
	t.symlink("/data/link-same", "same")
	t.mkdir("/data/attr", 0o755)
	t.mkdir("/data/attr-above", 0o711)
	t.write("/data/attr-above/kept", 0o644, nil)
	return t
}

func deltaApp() *tree {
	t := deltaBase()
	t.write("/data/content", 0o644, []byte("two"))
	t.write("/data/size", 0o644, []byte("123"))
	t.get("/data/mode").mode = 0o4755
	t.get("/data/owner").uid = 70000
	t.get("/data/cap").xattrs = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	t.remove("/data/gone")
	t.remove("/data/folder-gone")
	t.remove("/data/file-to-folder")
	t.write("/data/file-to-folder/x", 0o644, []byte("x"))
	t.remove("/data/folder-to-file")
	t.write("/data/folder-to-file", 0o644, []byte("f"))
	t.remove("/data/folder-to-link")
	t.symlink("/data/folder-to-link", "same")
	t.remove("/data/file-to-link")
	t.symlink("/data/file-to-link", "same/kept")
	t.remove("/data/link-to-folder")
	t.write("/data/link-to-folder/new", 0o644, []byte("n"))
	t.symlink("/data/link", "same")
	t.put("/data/whole/three", t.get("/data/whole/one").linked())
	t.write("/data/split/two", 0o644, []byte("split"))
	t.get("/data/attr").mode = 0o750
	t.write("/data/attr-above/new", 0o644, []byte("n"))
	t.write("/data/new/deep/file", 0o600, []byte("n"))
	t.write("/data/new/also", 0o644, []byte("also"))
	t.put("/data/new/other", t.get("/data/new/also").linked())
	return t
}

func writtenTar(t *testing.T, tr *tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tr.writeTar(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMinus(t *testing.T) {
	d, err := deltaApp().minus(deltaBase())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"5 ./", "5 data/",
		"0 data/.wh.folder-gone", "0 data/.wh.gone",
		"5 data/attr/", "5 data/attr-above/", "0 data/attr-above/new n",
		"0 data/cap cap c", "0 data/content two", "5 data/file-to-folder/", "0 data/file-to-folder/x x",
		"2 data/file-to-link -> same/kept", "0 data/folder-to-file f", "2 data/folder-to-link -> same",
		"2 data/link -> same", "5 data/link-to-folder/", "0 data/link-to-folder/new n",
		"0 data/mode m", "5 data/new/", "0 data/new/also also", "5 data/new/deep/", "0 data/new/deep/file n",
		"1 data/new/other -> data/new/also", "0 data/owner o", "0 data/size 123",
		"5 data/split/", "0 data/split/one split", "0 data/split/two split",
		"5 data/whole/", "0 data/whole/one whole", "1 data/whole/three -> data/whole/one", "1 data/whole/two -> data/whole/one",
	}
	data := writtenTar(t, d)
	got := listing(t, data)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	if n := d.get("/data/attr-above"); n.mode != 0o711 {
		t.Errorf("a folder above what is new has mode %o, want that of the root", n.mode)
	}
	again, err := deltaApp().minus(deltaBase())
	if err != nil || !bytes.Equal(data, writtenTar(t, again)) {
		t.Errorf("the same roots give two layers, %v", err)
	}
	// Times alone are no difference.
	later := deltaBase()
	later.clamp(time.Unix(5, 0))
	if d, err := later.minus(deltaBase()); err != nil || len(d.nodes) != 1 {
		t.Errorf("equal roots differ in %v, %v", d.names(), err)
	}
	odd := newTree()
	odd.write("/a/.wh.b", 0o644, nil)
	if _, err := odd.minus(newTree()); err == nil || !strings.Contains(err.Error(), "/a/.wh.b") {
		t.Errorf("a file with the name of a whiteout: %v, want an error", err)
	}
}

// TestDeltaOnBase lets podman lay the delta on its base: what comes out is the application's
// root, hard links, capabilities and all.
func TestDeltaOnBase(t *testing.T) {
	h := imagestoretest.NewHost(t)
	probe := []byte(imagestoretest.Probe(t))
	base, app := deltaBase(), deltaApp()
	for _, tr := range []*tree{base, app} {
		tr.write("/bin/probe", 0o755, probe)
		tr.clamp(time.Unix(1_700_000_000, 0))
	}
	d, err := app.minus(base)
	if err != nil {
		t.Fatal(err)
	}
	if d.get("/bin/probe") != nil {
		t.Error("the layer has a file that is equal")
	}
	d.clamp(time.Unix(1_700_000_000, 0))
	shown := map[string]string{}
	for name, layers := range map[string][][]byte{"whole": {writtenTar(t, app)}, "stacked": {writtenTar(t, base), writtenTar(t, d)}} {
		file := filepath.Join(h.Dir, name+".tar")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(oci.WriteArchive(f, imagestoretest.Image(t, layers...), "localhost/"+name+":latest"), f.Close()); err != nil {
			t.Fatal(err)
		}
		shown[name] = h.Run(`podman load -q -i ` + file + ` >/dev/null
			podman run --rm --cgroups disabled --network none ` + name + ` /bin/probe /data /data/* /data/*/* /data/*/*/*`)
	}
	if !strings.Contains(shown["whole"], "security.capability=0100") || strings.Contains(shown["whole"], "gone") {
		t.Errorf("the application's root shows\n%s", shown["whole"])
	}
	// Which inode has how many names is not kept across layers of overlayfs for folders.
	if diff := cmp.Diff(withoutFolderLinks(shown["whole"]), withoutFolderLinks(shown["stacked"])); diff != "" {
		t.Errorf("delta on its base (-want +got):\n%s", diff)
	}
}

// withoutFolderLinks leaves out the link count of folders, which overlayfs makes up.
func withoutFolderLinks(lines string) []string {
	var out []string
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasPrefix(f[1], "4") {
			f[3] = "-"
		}
		out = append(out, strings.Join(f, " "))
	}
	return out
}

func TestLeaveToHost(t *testing.T) {
	tr := deltaBase()
	tr.leaveToHost([]string{"/data/folder-*", "/data/l*/two", "/etc/localtime", "/none/*"}, false)
	got, err := tr.read(imagespec.RemovedFile)
	want := "/data/folder-gone\n/data/folder-gone/a\n/data/folder-gone/b\n/data/folder-gone/b/c\n/data/folder-to-file\n/data/folder-to-file/x\n" +
		"/data/folder-to-link\n/data/folder-to-link/x\n/data/linked/two\n/etc/localtime\n"
	if err != nil || string(got) != want {
		t.Errorf("%s = %q, %v, want %q", imagespec.RemovedFile, got, err, want)
	}
	if tr.get("/data/folder-gone/b/c") != nil || tr.get("/data/linked/two") != nil || tr.get("/data/linked/one") == nil {
		t.Error("what is listed is in the container, or more is gone")
	}
	for always, want := range map[bool]bool{true: true, false: false} {
		tr := newTree()
		tr.leaveToHost(nil, always)
		if got := tr.get(imagespec.RemovedFile) != nil; got != want {
			t.Errorf("a container with nothing from the host has a list: %v, want %v", got, want)
		}
	}
}

func TestContainerConfig(t *testing.T) {
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, tt := range []struct {
		spec imagespec.ContainerSpec
		want v1.Config
	}{
		{imagespec.ContainerSpec{}, v1.Config{Env: []string{path, "LANG=C.UTF-8"}, Cmd: []string{"/bin/sh"}}},
		{
			imagespec.ContainerSpec{
				Env: []string{"LANG=C", "A=b=c"}, Entrypoint: []string{"/a"}, User: "u", Workdir: "/w", Labels: []string{"a.b=c=d"},
			},
			v1.Config{Env: []string{path, "LANG=C", "A=b=c"}, Entrypoint: []string{"/a"}, User: "u", WorkingDir: "/w", Labels: map[string]string{"a.b": "c=d", "eos.base": "x"}},
		},
	} {
		var labels []string
		if tt.want.Labels != nil {
			labels = []string{"eos.base=x"}
		}
		if diff := cmp.Diff(tt.want, containerConfig(&tt.spec, "/bin/sh", labels).Config); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
	}
}

func TestChangedPackages(t *testing.T) {
	record := func(name, version string) string {
		return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\nMaintainer: x\n\n", name, version)
	}
	got, err := changedPackages(record("a", "1")+record("b", "1")+record("c", "1"), record("a", "1")+record("b", "2")+record("d", "1"))
	if err != nil || !slices.Equal(got, []string{"b"}) {
		t.Errorf("changedPackages = %v, %v, want b", got, err)
	}
}

// TestBuildDelta builds lynx on the base that TestBuildContainer builds.
func TestBuildDelta(t *testing.T) {
	if testing.Short() {
		t.Skip("installs packages")
	}
	spec, err := imagespec.LoadContainer("../../apps/lynx.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var ids [2]v1.Hash
	var img v1.Image
	for i := range ids {
		if img, err = Container(t.Context(), ContainerOptions{Spec: spec}); err != nil {
			t.Fatal(err)
		}
		if ids[i], err = img.ConfigName(); err != nil {
			t.Fatal(err)
		}
	}
	base, err := Container(t.Context(), ContainerOptions{Spec: spec.BaseSpec})
	if err != nil {
		t.Fatal(err)
	}
	id, err1 := base.ConfigName()
	config, err2 := img.ConfigFile()
	layers, err3 := img.Layers()
	baseLayers, err4 := base.Layers()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if ids[0] != ids[1] {
		t.Errorf("two builds give the images %s and %s", ids[0], ids[1])
	}
	if l := config.Config.Labels; l[LabelBase] != "basesystem" || l[LabelBaseDigest] != id.String() {
		t.Errorf("labels %v, want basesystem and %s", l, id)
	}
	size, err1 := layers[0].Size()
	baseSize, err2 := baseLayers[0].Size()
	if err := errors.Join(err1, err2); err != nil || len(layers) != 1 || size > baseSize/3 {
		t.Errorf("the delta has %d layers, the first of %d bytes, on %d, %v, want a third at most", len(layers), size, baseSize, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var data bytes.Buffer
	if _, err := data.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	files := strings.Join(listing(t, data.Bytes()), "\n") + "\n"
	for _, want := range []string{"0 usr/bin/lynx\n", "0 removed\n", "0 var/lib/dpkg/status\n"} {
		if !strings.Contains(files, want) {
			t.Errorf("the delta has no %q", want)
		}
	}
	for _, no := range []string{"/bash", "/libc.so", "/var/lib/apt", "zoneinfo", ".wh.", "etc/passwd", "etc/shadow"} {
		if strings.Contains(files, no) {
			t.Errorf("the delta has %s:\n%s", no, files)
		}
	}
}
