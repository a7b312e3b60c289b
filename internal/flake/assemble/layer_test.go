package assemble

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes a layer of an archive over a tree, and returns its entries.
func write(archive []byte, below tree) ([]*tar.Header, error) {
	var out bytes.Buffer
	l := newLayerWriter(below, &out, 1<<20)
	in := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = l.entry(h, in)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := l.out.Close(); err != nil {
		return nil, err
	}
	var all []*tar.Header
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			return nil, fmt.Errorf("read what was written: %w", err)
		}
		all = append(all, h)
	}
}

func archive(tb testing.TB, all ...tar.Header) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range all {
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// A sparse file of a terabyte is a few bytes in an archive, in each of the ways that tar knows.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/holes", nil, 0o644), os.Truncate(dir+"/holes", 1<<40), os.Mkdir(dir+"/low", 0o755)); err != nil {
		t.Fatal(err)
	}
	below, err := openTree([]layer{{dir: dir + "/low"}})
	if err != nil {
		t.Fatal(err)
	}
	defer below.close()
	for _, format := range []string{"--format=gnu", "--format=posix", "--sparse-version=0.0", "--sparse-version=0.1"} {
		text, err := exec.Command("tar", "--sparse", format, "-C", dir, "-c", "holes").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 100<<10 {
			t.Fatalf("%s: the archive has %d bytes", format, len(text))
		}
		if _, err := write(text, below); !errors.Is(err, errNoRoom) {
			t.Errorf("%s: %v, want %v", format, err, errNoRoom)
		}
	}
}

func TestPlace(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(low+"/usr/lib", 0o711), os.Symlink("usr/lib", low+"/lib"), os.Symlink("/usr", low+"/abs"), os.Symlink("../../../..", low+"/up"), os.Symlink("loop", low+"/loop"),
		os.WriteFile(low+"/file", nil, 0o644), os.Mkdir(high+"/usr", 0o755)); err != nil {
		t.Fatal(err)
	}
	below, err := openTree([]layer{{dir: high}, {dir: low}})
	if err != nil {
		t.Fatal(err)
	}
	defer below.close()
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to} }
	for _, c := range []struct {
		name string
		in   []tar.Header
		want string // names, or an error after !
	}{
		{"link", []tar.Header{{Name: "lib/x"}}, "usr/ usr/lib/ usr/lib/x"}, {"absolute link", []tar.Header{{Name: "abs/lib/x"}}, "usr/ usr/lib/ usr/lib/x"}, {"out", []tar.Header{{Name: "up/x"}}, "x"},
		{"dots", []tar.Header{{Name: "../../x"}}, "x"}, {"loop", []tar.Header{{Name: "loop/x"}}, "!more than 40 links"}, {"no folder", []tar.Header{{Name: "file/x"}}, "!no folder"},
		{"new", []tar.Header{{Name: "n/m/x"}}, "n/ n/m/ n/m/x"}, {"folder over link", []tar.Header{dir("lib/"), {Name: "lib/x"}}, "usr/ usr/lib/ usr/lib/x"},
		{"own link", []tar.Header{link("l", "usr"), {Name: "l/x"}}, "l usr/ usr/x"}, {"own file", []tar.Header{{Name: "f"}, {Name: "f/x"}}, "!no folder"},
		{"removal", []tar.Header{{Name: "d/.wh.x"}}, "!removed"}, {"removal of a folder", []tar.Header{{Name: ".wh.d/x"}}, "!removed"}, {"opaque", []tar.Header{{Name: "d/.wh..wh..opq"}}, "!removed"},
		{"device", []tar.Header{{Name: "d", Typeflag: tar.TypeChar}}, "!device"}, {"hard link", []tar.Header{{Name: "lib/x"}, hard("y", "lib/x")}, "usr/ usr/lib/ usr/lib/x y"},
		{"hard link below", []tar.Header{hard("y", "file")}, "!no file in the archive"}, {"hard link out", []tar.Header{hard("y", "../../none/shadow")}, "!no file in the archive"},
		{"hard link to a folder", []tar.Header{dir("d/"), hard("y", "d")}, "!no file in the archive"}, {"itself", []tar.Header{{Name: "y"}, hard("y", "y")}, "y"},
		{"file over folder", []tar.Header{dir("d/"), {Name: "d/x"}, {Name: "d"}, hard("y", "d/x")}, "!no folder"},
		{"root", []tar.Header{dir("./"), dir("/")}, ""},
	} {
		got, err := write(archive(t, c.in...), below)
		var names []string
		for _, h := range got {
			names = append(names, h.Name)
		}
		if text, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q, %v, want %q", c.name, names, err, text)
			}
		} else if diff := cmp.Diff(c.want, strings.Join(names, " ")); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
	}
	// Hard links say what their file does, and attributes of overlayfs stay outside.
	got, err := write(archive(t, tar.Header{Name: "x", Mode: 0o640, Uid: 3, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.a": "b"}}, hard("y", "x")), below)
	if err != nil || len(got) != 2 || got[1].Mode != 0o640 || got[1].Uid != 3 || !slices.Equal(slices.Collect(maps.Keys(got[0].PAXRecords)), []string{"SCHILY.xattr.user.a"}) {
		t.Errorf("entries: %+v, %v", got, err)
	}
}

// Whatever is in an archive, what is written can be read again and stays in the container: names
// have no dots, no link on their way, and every folder is there before what is in it.
func FuzzArchive(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/b"}, tar.Header{Name: "a/x"}, tar.Header{Name: "../y", Typeflag: tar.TypeLink, Linkname: "a/x"}))
	f.Add(archive(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/x"}, tar.Header{Name: "d"}))
	f.Add([]byte("nothing"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		all, err := write(data, nil)
		if err != nil {
			if strings.Contains(err.Error(), "read what was written") {
				t.Error(err)
			}
			return
		}
		kinds := map[string]byte{}
		for _, h := range all {
			name := strings.TrimSuffix(h.Name, "/")
			if path := filepath.Clean(name); path != name || name == "." || name == ".." || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") {
				t.Fatalf("an entry %q", h.Name)
			}
			for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
				if kinds[dir] != tar.TypeDir {
					t.Fatalf("%q is written, and %q is none", h.Name, dir)
				}
			}
			if h.Typeflag == tar.TypeLink && (kinds[h.Linkname] == 0 || kinds[h.Linkname] == tar.TypeDir) {
				t.Fatalf("%q is a link to %q", h.Name, h.Linkname)
			}
			if strings.HasPrefix(filepath.Base(name), ".wh.") {
				t.Fatalf("a removal %q", h.Name)
			}
			if h.Typeflag != tar.TypeDir {
				maps.DeleteFunc(kinds, func(n string, _ byte) bool { return strings.HasPrefix(n, name+"/") })
			}
			kinds[name] = h.Typeflag
		}
	})
}
