package imagestore_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/oci"
)

type member = imagestoretest.Member

// Value of security.capability for cap_net_raw=ep.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// sample is an image of two layers that has everything a layer can have.
func sample(t *testing.T) v1.Image {
	lower := imagestoretest.Layer(t,
		member{Header: tar.Header{Name: "./", Mode: 0o751}},
		member{Header: tar.Header{Name: "./bin/"}},
		member{Header: tar.Header{Name: "./bin/probe", Mode: 0o755}, Content: imagestoretest.Probe(t)},
		member{Header: tar.Header{Name: "./bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/probe", Mode: 0o755}},
		member{Header: tar.Header{Name: "./bin/soft", Typeflag: tar.TypeSymlink, Linkname: "../../../bin/probe"}},
		member{Header: tar.Header{Name: "./bin/cap", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hello", "SCHILY.xattr.security.selinux": "x"}}, Content: "cap"},
		member{Header: tar.Header{Name: "./bin/su", Mode: 0o4755, Uid: 7, Gid: 8}, Content: "su"},
		member{Header: tar.Header{Name: "./etc/gone"}, Content: "gone"},
		member{Header: tar.Header{Name: "./etc/kept"}, Content: "kept"},
		member{Header: tar.Header{Name: "./etc/again/old"}, Content: "old"},
		member{Header: tar.Header{Name: "./data/old"}, Content: "old"},
		member{Header: tar.Header{Name: "./var/pipe", Typeflag: tar.TypeFifo}},
		member{Header: tar.Header{Name: "./var/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		member{Header: tar.Header{Name: "./var/" + strings.Repeat("long", 60), ModTime: at(5)}, Content: "long"},
		member{Header: tar.Header{Name: "./var/\xff\xfe"}, Content: "no utf-8"},
	)
	upper := imagestoretest.Layer(t,
		member{Header: tar.Header{Name: "etc/"}},
		member{Header: tar.Header{Name: "etc/.wh.gone"}},
		member{Header: tar.Header{Name: "etc/.wh.again"}},
		member{Header: tar.Header{Name: "etc/again/"}},
		member{Header: tar.Header{Name: "etc/again/new"}, Content: "new"},
		member{Header: tar.Header{Name: "data/"}},
		member{Header: tar.Header{Name: "data/.wh..wh..opq"}},
		member{Header: tar.Header{Name: "data/new"}, Content: "new"},
	)
	return imagestoretest.Image(t, lower, upper)
}

// write lays images out in a tree.
func write(t *testing.T, images ...imagestore.Image) imagestoretest.Tree {
	t.Helper()
	tree := imagestoretest.Tree{}
	layers, err := imagestore.Write(tree, t.TempDir(), images)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	return tree
}

// TestPodman lets podman use a store.
func TestPodman(t *testing.T) {
	h := imagestoretest.NewHost(t)
	img := sample(t)
	packed := compressed(t)
	tree := write(t,
		imagestore.Image{Names: []string{"basesystem", "registry.example.com/base:1"}, Image: img},
		imagestore.Image{Names: []string{"packed"}, Image: packed})
	h.Mount(tree)

	if out := h.Run(`podman images --format '{{.Repository}}:{{.Tag}} {{.ReadOnly}}' | sort`); out != "localhost/basesystem:latest true\nlocalhost/packed:latest true\nregistry.example.com/base:1 true\n" {
		t.Errorf("podman images = %q, want all names, read-only", out)
	}
	const files = "/bin/* /etc/gone /etc/kept /etc/again/* /data/* /var/*"
	got := h.Run(`podman run --rm --cgroups disabled --network none --pull never basesystem /bin/probe / ` + files)

	// The same image, loaded by podman itself.
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(h.Dir, "sample.oci.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(oci.WriteArchive(f, img, "localhost/sample:latest"), f.Close()); err != nil {
		t.Fatal(err)
	}
	plain := imagestoretest.NewHost(t)
	want := plain.Run(`podman load -q -i ` + archive + ` >/dev/null
		podman run --rm --cgroups disabled --network none --pull never sample /bin/probe / ` + files)
	// podman does not take the mode of the root over, and lets a folder that a layer removes
	// and makes anew keep what it had.
	want = regexp.MustCompile(`(?m)^(/etc/again/old .*\n|/ .*\n)`).ReplaceAllString(want, "")
	if after(got, "\n") != want {
		t.Errorf("files of the container:\n%swith podman's own store:\n%s", got, want)
	}
	checkFiles(t, got)
	if out := plain.Run(`podman images -q --no-trunc`); strings.TrimSpace(out) != config.String() {
		t.Errorf("podman gives the image the id %q, the store %s", out, config)
	}
	checkLayers(t, write(t, imagestore.Image{Names: []string{"sample"}, Image: img}), filepath.Join(plain.Dir, "rw/overlay-layers/layers.json"))

	// Nothing was copied, and what comes out is what went in.
	if out := h.Run(`cat $D/rw/overlay-layers/layers.json; du -sk $D/rw | cut -f1`); !strings.HasPrefix(out, "[]") {
		t.Errorf("the writable store has layers: %s", out)
	}
	for name, img := range map[string]v1.Image{"basesystem": img, "packed": packed} {
		h.Run(`podman image inspect ` + name + ` >/dev/null; podman save -q --format oci-dir -o $D/saved-` + name + ` ` + name)
		saved, err := oci.OpenFolder(filepath.Join(h.Dir, "saved-"+name), "amd64")
		if err != nil {
			t.Fatal(err)
		}
		checkSaved(t, img, saved)
	}
}

// compressed is an image as it comes from a registry.
func compressed(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(5000, 3)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// after returns what comes after the first sep.
func after(s, sep string) string {
	_, rest, _ := strings.Cut(s, sep)
	return rest
}

// checkFiles looks at what the program in the container saw.
func checkFiles(t *testing.T, got string) {
	t.Helper()
	for _, want := range []string{
		"/ 40751 0:0 ", "/bin/probe 100755 0:0 2 ", "/bin/hard 100755 0:0 2 ", "/bin/soft 120777 0:0 1 ",
		"/bin/cap 100755 0:0 1 1700000000 cap <nil> security.capability=", " user.note=68656c6c6f", "/bin/su 104755 7:8 ",
		"/etc/gone none", "/etc/kept 100644", "/etc/again/new", "/data/new", "/var/pipe 10644", "/var/null 20666", "longlong", "no utf-8",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the container does not show %q:\n%s", want, got)
		}
	}
	for _, no := range []string{"/data/old", ".wh."} {
		if strings.Contains(got, no) {
			t.Errorf("the container shows %q:\n%s", no, got)
		}
	}
}

// checkLayers compares the table of layers with podman's own.
func checkLayers(t *testing.T, tree imagestoretest.Tree, theirs string) {
	t.Helper()
	type record struct {
		ID, Parent       string
		Digest           string `json:"diff-digest"`
		Size             int64  `json:"diff-size"`
		CompressedDigest string `json:"compressed-diff-digest"`
		CompressedSize   int64  `json:"compressed-size"`
		UIDs             []int  `json:"uidset"`
		GIDs             []int  `json:"gidset"`
	}
	text, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []record
	if err := errors.Join(json.Unmarshal(text, &want), json.Unmarshal([]byte(tree.Read(t, "overlay-layers/layers.json")), &got)); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Fatalf("%d layers, podman has %d", len(got), len(want))
	}
	for _, w := range want {
		i := slices.IndexFunc(got, func(r record) bool { return r.ID == w.ID })
		if i < 0 {
			t.Fatalf("there is no layer %s, as podman has", w.ID)
		}
		g := got[i]
		slices.Sort(w.UIDs)
		slices.Sort(w.GIDs)
		if g.Parent != w.Parent || g.Digest != w.Digest || g.Size != w.Size || g.CompressedDigest != w.CompressedDigest ||
			g.CompressedSize != w.CompressedSize || !slices.Equal(g.UIDs, w.UIDs) || !slices.Equal(g.GIDs, w.GIDs) {
			t.Errorf("layer %+v, podman has %+v", g, w)
		}
	}
}

// checkSaved compares an image with what podman saved of it.
func checkSaved(t *testing.T, want, got v1.Image) {
	t.Helper()
	wantConfig, err1 := want.RawConfigFile()
	gotConfig, err2 := got.RawConfigFile()
	mediaType, err3 := want.MediaType()
	// podman writes the configuration anew when it makes an image of docker's one of the OCI.
	if err := errors.Join(err1, err2, err3); err != nil || mediaType == types.OCIManifestSchema1 && !bytes.Equal(wantConfig, gotConfig) {
		t.Errorf("podman saved the configuration %s, %v, want %s", gotConfig, err, wantConfig)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := want.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("podman saved %d layers, want %d", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range layers {
		// DiffID reads the layer and sums it up.
		if have, err := l.DiffID(); err != nil || have != config.RootFS.DiffIDs[i] {
			t.Errorf("podman saved layer %d as %s, %v, want %s", i, have, err, config.RootFS.DiffIDs[i])
		}
	}
}
