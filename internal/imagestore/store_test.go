package imagestore_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
)

func at(seconds int64) time.Time { return time.Unix(seconds, 0) }

// two layers, of which two images share the lower one.
func shared(t *testing.T) []imagestore.Image {
	t.Helper()
	base := imagestoretest.Layer(t, member{Header: tar.Header{Name: "a"}, Content: "a"})
	more := imagestoretest.Layer(t, member{Header: tar.Header{Name: "b"}, Content: "b"})
	return []imagestore.Image{
		{Names: []string{"more"}, Image: imagestoretest.Image(t, base, more)},
		{Names: []string{"base", "old"}, Image: imagestoretest.Image(t, base)},
	}
}

// TestSameImagesSameBytes writes the same images twice, in any order.
func TestSameImagesSameBytes(t *testing.T) {
	images := shared(t)
	var first, second bytes.Buffer
	if err := write(t, images...).WriteTar(&first); err != nil {
		t.Fatal(err)
	}
	images[0], images[1] = images[1], images[0]
	if err := write(t, images...).WriteTar(&second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same images give two different stores")
	}
}

func TestEmptyStore(t *testing.T) {
	tree := write(t)
	for _, name := range []string{"overlay-images/images.json", "overlay-layers/layers.json"} {
		if got := tree.Read(t, name); got != "[]" {
			t.Errorf("%s = %q, want an empty table", name, got)
		}
	}
	for _, name := range []string{"overlay-images/images.lock", "overlay-layers/layers.lock"} {
		if got := tree.Read(t, name); got != "" {
			t.Errorf("%s = %q, want an empty file", name, got)
		}
	}
	if f := tree[imagestore.Dir+"/overlay/l"]; f.Type != tar.TypeDir {
		t.Error("the store has no folder of links")
	}
}

func TestSharedLayers(t *testing.T) {
	tree := write(t, shared(t)...)
	var layers []struct{ ID, Parent string }
	if err := json.Unmarshal([]byte(tree.Read(t, "overlay-layers/layers.json")), &layers); err != nil {
		t.Fatal(err)
	}
	if len(layers) != 2 || layers[0].Parent != "" || layers[1].Parent != layers[0].ID {
		t.Fatalf("layers = %+v, want two, the second on the first", layers)
	}
	link := tree.Read(t, "overlay/"+layers[0].ID+"/link")
	if got, want := tree.Read(t, "overlay/"+layers[1].ID+"/lower"), "l/"+link; got != want {
		t.Errorf("lower = %q, want %q", got, want)
	}
	if got, want := tree[imagestore.Dir+"/overlay/l/"+link].Link, "../"+layers[0].ID+"/diff"; got != want || len(link) != 26 {
		t.Errorf("link %s leads to %q, want %q, and 26 letters", link, got, want)
	}
	var images []struct {
		Names        []string
		BigDataNames []string `json:"big-data-names"`
	}
	if err := json.Unmarshal([]byte(tree.Read(t, "overlay-images/images.json")), &images); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range images {
		names = append(names, strings.Join(i.Names, " "))
		if len(i.BigDataNames) != 4 {
			t.Errorf("%v has the data %v, want manifest, configuration and signatures", i.Names, i.BigDataNames)
		}
	}
	if len(names) != 2 || !strings.Contains(strings.Join(names, ","), "localhost/base:latest localhost/old:latest") {
		t.Errorf("names = %q", names)
	}
}

// A layer that comes compressed and one of another library.
func TestRandomImage(t *testing.T) {
	img, err := random.Image(2000, 3)
	if err != nil {
		t.Fatal(err)
	}
	var layers []struct {
		Compression int
		Digest      string `json:"diff-digest"`
	}
	tree := write(t, imagestore.Image{Names: []string{"x"}, Image: img})
	if err := json.Unmarshal([]byte(tree.Read(t, "overlay-layers/layers.json")), &layers); err != nil || len(layers) != 3 {
		t.Errorf("layers = %v, %v, want three", layers, err)
	}
}

// TestLayers shows what becomes of the files of a layer.
func TestLayers(t *testing.T) {
	tests := map[string]struct {
		members []member
		want    []string // TYPE PATH, sorted
	}{
		"a folder that is implied": {
			[]member{{Header: tar.Header{Name: "a/b/c"}}},
			[]string{"5 a", "5 a/b", "0 a/b/c"},
		},
		"a folder that comes late": {
			[]member{{Header: tar.Header{Name: "a/b"}}, {Header: tar.Header{Name: "a/", Mode: 0o700}}},
			[]string{"5 a 700", "0 a/b"},
		},
		"a file that is gone": {
			[]member{{Header: tar.Header{Name: "a/.wh.b"}}},
			[]string{"5 a", "3 a/b gone"},
		},
		"a folder that is replaced": {
			[]member{{Header: tar.Header{Name: ".wh.a"}}, {Header: tar.Header{Name: "a/b"}}},
			[]string{"5 a opaque", "0 a/b"},
		},
		"a folder that is replaced, told late": {
			[]member{{Header: tar.Header{Name: "a/b"}}, {Header: tar.Header{Name: ".wh.a"}}, {Header: tar.Header{Name: "a/"}}},
			[]string{"5 a opaque", "0 a/b"},
		},
		"a file that is replaced": {
			[]member{{Header: tar.Header{Name: ".wh.a"}}, {Header: tar.Header{Name: "a"}, Content: "x"}},
			[]string{"0 a"},
		},
		"an opaque folder": {
			[]member{{Header: tar.Header{Name: "a/.wh..wh..opq"}}, {Header: tar.Header{Name: "a/b"}}},
			[]string{"5 a opaque", "0 a/b"},
		},
		"marks of aufs": {
			[]member{{Header: tar.Header{Name: ".wh..wh.plnk/"}}, {Header: tar.Header{Name: ".wh..wh.plnk/1.2"}, Content: "x"}, {Header: tar.Header{Name: "a"}}},
			[]string{"0 a"},
		},
		"hard links": {
			[]member{
				{Header: tar.Header{Name: "b"}, Content: "x"},
				{Header: tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "./b"}},
				{Header: tar.Header{Name: "c", Typeflag: tar.TypeLink, Linkname: "a"}},
			},
			[]string{"1 a -> b", "0 b", "1 c -> b"},
		},
		"a hard link to a link": {
			[]member{
				{Header: tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "/etc"}},
				{Header: tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}},
			},
			[]string{"2 a -> /etc", "2 b -> /etc"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree := write(t, imagestore.Image{Names: []string{"x"}, Image: imagestoretest.Image(t, imagestoretest.Layer(t, tt.members...))})
			if diff := cmp.Diff(tt.want, listing(tree)); diff != "" {
				t.Errorf("files of the layer (-want +got):\n%s", diff)
			}
		})
	}
}

var inLayer = regexp.MustCompile(`^` + regexp.QuoteMeta(imagestore.Dir) + `/overlay/[0-9a-f]{64}/diff/`)

// listing describes the files of the only layer.
func listing(tree imagestoretest.Tree) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		name := inLayer.ReplaceAllString(p, "")
		if name == p {
			continue
		}
		f := tree[p]
		line := string(f.Type) + " " + name
		switch {
		case f.Link != "":
			line += " -> " + inLayer.ReplaceAllString(f.Link, "")
		case f.Type == tar.TypeChar && f.Major == 0 && f.Minor == 0:
			line += " gone"
		case f.Xattrs["trusted.overlay.opaque"] == "y":
			line += " opaque"
		case f.Type == tar.TypeDir && f.Mode != 0o755:
			line += " 700"
		}
		out = append(out, line)
	}
	return out
}

// TestHostileLayers shows what is refused, and that the error says where.
func TestHostileLayers(t *testing.T) {
	link := func(name, to string) member {
		return member{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
	}
	file := func(name string) member { return member{Header: tar.Header{Name: name}, Content: "x"} }
	xattr := func(name string) member {
		return member{Header: tar.Header{Name: "a", PAXRecords: map[string]string{"SCHILY.xattr." + name: "x"}}}
	}
	tests := []struct {
		name    string
		members []member
		want    string
	}{
		{"up", []member{file("../a")}, `"../a": leads out of the layer`},
		{"up inside", []member{file("a/../../b")}, "leads out of the layer"},
		{"absolute", []member{file("/etc/passwd")}, `"/etc/passwd": is an absolute path`},
		{"through a link", []member{
			{Header: tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, file("a/passwd"),
		}, `"a/passwd": lies below "a", which is a link`},
		{"through a file", []member{file("a"), file("a/b")}, `lies below "a", which is no folder`},
		{"hard link out", []member{link("a", "../../etc/passwd")}, `is a hard link to "../../etc/passwd", which leads out`},
		{"hard link absolute", []member{link("a", "/etc/passwd")}, "which is an absolute path"},
		{"hard link to nothing", []member{link("a", "b")}, `is a hard link to "b", which is not in the layer`},
		{"hard link to a folder", []member{{Header: tar.Header{Name: "b/"}}, link("a", "b")}, "which is a folder"},
		{"twice", []member{file("a"), file("./a")}, "twice"},
		{"file over folder", []member{file("a/b"), file("a")}, "is a folder and a file"},
		{"whiteout of nothing", []member{{Header: tar.Header{Name: "a/.wh."}}}, "hides no file"},
		{"whiteout of the folder", []member{{Header: tar.Header{Name: "a/.wh.."}}}, "hides no file"},
		{"whiteout of the folder above", []member{{Header: tar.Header{Name: "a/.wh..."}}}, "hides no file"},
		{"below a whiteout", []member{file(".wh.a/b")}, "lies in a folder that stands for"},
		{"whiteout with content", []member{file(".wh.a")}, "has content"},
		{"whiteout of all", []member{{Header: tar.Header{Name: ".wh..wh..opq"}}}, "hides all"},
		{"overlay redirect", []member{xattr("trusted.overlay.redirect")}, "which is for overlayfs alone"},
		{"overlay opaque", []member{xattr("user.overlay.opaque")}, "which is for overlayfs alone"},
		{"long name", []member{file(strings.Repeat("a", 256))}, "longer than 255 bytes"},
		{"root is a file", []member{{Header: tar.Header{Name: ".", Typeflag: tar.TypeFifo}}}, "no folder"},
		{"strange type", []member{{Header: tar.Header{Name: "a", Typeflag: '7'}}}, "unknown type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := imagestoretest.Image(t, imagestoretest.Layer(t, tt.members...))
			_, err := imagestore.Write(imagestoretest.Tree{}, t.TempDir(), []imagestore.Image{{Names: []string{"x"}, Image: img}})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "localhost/x:latest") {
				t.Errorf("Write = %v, want an error with %q and the name of the image", err, tt.want)
			}
		})
	}
}

func TestRefusedImages(t *testing.T) {
	img := imagestoretest.Image(t, imagestoretest.Layer(t, member{Header: tar.Header{Name: "a"}}))
	for name, tt := range map[string]struct {
		images []imagestore.Image
		want   string
	}{
		"no name":     {[]imagestore.Image{{Image: img}}, "it has no name"},
		"bad name":    {[]imagestore.Image{{Names: []string{"A"}, Image: img}}, `name of container image "A"`},
		"name twice":  {[]imagestore.Image{{Names: []string{"a"}, Image: img}, {Names: []string{"localhost/a:latest"}, Image: img}}, "given twice"},
		"cut archive": {[]imagestore.Image{{Names: []string{"a"}, Image: imagestoretest.Image(t, []byte("no archive, only some text of more than one block"+strings.Repeat("x", 600)))}}, "layer sha256:"},
	} {
		if _, err := imagestore.Write(imagestoretest.Tree{}, t.TempDir(), tt.images); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Write = %v, want an error with %q", name, err, tt.want)
		}
	}
}

// A layer in the cache that is not what its name says is thrown away.
func TestSpoiltCache(t *testing.T) {
	img := imagestoretest.Image(t, imagestoretest.Layer(t, member{Header: tar.Header{Name: "a"}, Content: "right"}))
	images := []imagestore.Image{{Names: []string{"x"}, Image: img}}
	cache := t.TempDir()
	layers, err := imagestore.Write(imagestoretest.Tree{}, cache, images)
	if err != nil {
		t.Fatal(err)
	}
	layers.Close()
	found, err := filepath.Glob(filepath.Join(cache, "layer-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the cache has %v, %v, want one layer", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(found[0], bytes.Replace(data, []byte("right"), []byte("wrong"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := imagestore.Write(imagestoretest.Tree{}, cache, images); err == nil || !strings.Contains(err.Error(), "build again") {
		t.Errorf("Write with a spoilt layer: %v, want an error", err)
	}
	if layers, err = imagestore.Write(imagestoretest.Tree{}, cache, images); err != nil {
		t.Errorf("Write after it: %v, want none", err)
	}
	layers.Close()
}
