package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// archive writes a tar archive to a file and opens it.
func archive(t *testing.T, headers []tar.Header, contents map[string]string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, h := range headers {
		h.Size = int64(len(contents[h.Name]))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, contents[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func sampleTree(t *testing.T, reverse bool) *tree {
	t.Helper()
	headers := []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./b", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 7, ModTime: time.Unix(99, 5)},
		{Name: "./a", Typeflag: tar.TypeLink, Linkname: "./b"},
		{Name: "./l", Typeflag: tar.TypeSymlink, Linkname: "b"},
		{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "./d/cap", Typeflag: tar.TypeReg, Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x02\x00\x03"}},
		{Name: "./n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
	}
	if reverse {
		headers[3], headers[6] = headers[6], headers[3]
	}
	f := archive(t, headers, map[string]string{"./b": "content of b", "./d/cap": strings.Repeat("x", 5000)})
	tr, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// listing describes a tar stream in lines.
func listing(t *testing.T, data []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := string(h.Typeflag) + " " + h.Name
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if v := h.PAXRecords["SCHILY.xattr.security.capability"]; v != "" {
			line += " cap"
		}
		if len(content) > 0 && len(content) < 100 {
			line += " " + string(content)
		}
		out = append(out, line)
	}
}

func TestTreeRoundTrip(t *testing.T) {
	var out bytes.Buffer
	tr := sampleTree(t, false)
	tr.clamp(time.Unix(1700000000, 0))
	if err := tr.writeTar(&out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"5 ./",
		"0 a content of b", // the first name in order holds the content
		"1 b -> a",
		"5 d/",
		"0 d/cap cap",
		"2 l -> b",
		"3 n",
	}
	if diff := cmp.Diff(want, listing(t, out.Bytes())); diff != "" {
		t.Errorf("archive differs (-want +got):\n%s", diff)
	}

	var again bytes.Buffer
	other := sampleTree(t, true)
	other.clamp(time.Unix(1700000000, 0))
	if err := other.writeTar(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("the order of files in the root archive shows in the result")
	}
	d1, err1 := tr.digest()
	d2, err2 := other.digest()
	if err1 != nil || err2 != nil || d1 != d2 {
		t.Errorf("digest = %x, %v and %x, %v, want the same", d1, err1, d2, err2)
	}
}

func TestDigestSeesEverything(t *testing.T) {
	base, err := sampleTree(t, false).digest()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tree){
		"content":    func(tr *tree) { tr.rewrite("/d/cap", []byte("y")) },
		"mode":       func(tr *tree) { tr.get("/d").mode = 0o755 },
		"owner":      func(tr *tree) { tr.get("/d").uid = 1 },
		"time":       func(tr *tree) { tr.get("/d").mtime = time.Unix(5, 0) },
		"link":       func(tr *tree) { tr.get("/l").link = "a" },
		"capability": func(tr *tree) { tr.get("/d/cap").xattrs = nil },
		"device":     func(tr *tree) { tr.get("/n").minor = 5 },
		"name":       func(tr *tree) { tr.move("/d", "/e") },
		"hard link":  func(tr *tree) { tr.get("/a").shared = nil },
		"more":       func(tr *tree) { tr.write("/new", 0o644, nil) },
		"less":       func(tr *tree) { tr.remove("/d") },
	} {
		tr := sampleTree(t, false)
		change(tr)
		if got, err := tr.digest(); err != nil || got == base {
			t.Errorf("digest after a change of %s: %x, %v, want another than before", name, got, err)
		}
	}
}

func TestReadTreeRefuses(t *testing.T) {
	f := archive(t, []tar.Header{{Name: "./a", Typeflag: tar.TypeLink, Linkname: "./nowhere"}}, nil)
	if _, err := readTree(f); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("readTree of a hard link to nothing: %v, want an error that names it", err)
	}
	path := filepath.Join(t.TempDir(), "cut")
	full := archive(t, []tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "b", Typeflag: tar.TypeReg}},
		map[string]string{"a": strings.Repeat("a", 2000)})
	data, err := io.ReadAll(full)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data[:1000], 0o644); err != nil {
		t.Fatal(err)
	}
	cut, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	if tr, err := readTree(cut); err == nil {
		if _, err := tr.digest(); err == nil {
			t.Error("a root archive that was cut short was accepted")
		}
	}
}

func TestCheckWhole(t *testing.T) {
	tr := newTree()
	tr.write("/etc/a/b", 0o644, nil)
	if err := tr.checkWhole(); err != nil {
		t.Errorf("checkWhole: %v, want nil", err)
	}
	tr.symlink("/etc/a", "/tmp")
	if err := tr.checkWhole(); err == nil {
		t.Error("checkWhole of a file below a link: no error")
	}
}
