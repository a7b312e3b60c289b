// Package imagestoretest has what tests of container stores need: a tree that can be looked
// at and written as an archive, and images of a few files.
package imagestoretest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/oci"
)

// Tree is a store in memory, by path.
type Tree map[string]imagestore.File

// Put adds a file. One without a folder, or one that is there twice, is an error.
func (t Tree) Put(path string, f imagestore.File) error {
	if _, twice := t[path]; twice {
		return fmt.Errorf("%s is put twice", path)
	}
	dir := path[:strings.LastIndexByte(path, '/')]
	if parent, ok := t[dir]; path != imagestore.Dir && (!ok || parent.Type != tar.TypeDir) {
		return fmt.Errorf("%s is put before its folder", path)
	}
	if f.Type == tar.TypeLink && t[f.Link].Type != tar.TypeReg {
		return fmt.Errorf("%s is put before %s, which it is a link to", path, f.Link)
	}
	t[path] = f
	return nil
}

// Read returns the content of a file below the store.
func (t Tree) Read(tb testing.TB, name string) string {
	tb.Helper()
	f, ok := t[imagestore.Dir+"/"+name]
	if !ok || f.Type != tar.TypeReg {
		tb.Fatalf("the store has no file %s", name)
	}
	data, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Content.Size()))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// WriteTar writes the store as an archive with the store at its top.
func (t Tree) WriteTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, links := range []bool{false, true} {
		for _, p := range slices.Sorted(maps.Keys(t)) {
			f := t[p]
			if (f.Type == tar.TypeLink) != links {
				continue
			}
			h := &tar.Header{
				Typeflag: f.Type, Name: relative(p), Mode: f.Mode, Uid: f.UID, Gid: f.GID, Linkname: f.Link,
				Devmajor: f.Major, Devminor: f.Minor, ModTime: f.ModTime, PAXRecords: map[string]string{}, Format: tar.FormatPAX,
			}
			if links {
				h.Linkname = relative(f.Link)
			}
			for k, v := range f.Xattrs {
				h.PAXRecords["SCHILY.xattr."+k] = v
			}
			if f.Content != nil {
				h.Size = f.Content.Size()
			}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if f.Content != nil {
				if _, err := io.Copy(tw, io.NewSectionReader(f.Content, 0, h.Size)); err != nil {
					return err
				}
			}
		}
	}
	return tw.Close()
}

func relative(p string) string {
	if p == imagestore.Dir {
		return "./"
	}
	return strings.TrimPrefix(p, imagestore.Dir+"/")
}

// Member is a file of a layer.
type Member struct {
	tar.Header
	Content string
}

// Layer makes the archive of a layer. Names that end with a slash are folders, and
// everything has a time unless it is given.
func Layer(tb testing.TB, members ...Member) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.Header
		switch {
		case h.Typeflag != 0:
		case strings.HasSuffix(h.Name, "/"):
			h.Typeflag = tar.TypeDir
		default:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = map[bool]int64{true: 0o755, false: 0o644}[h.Typeflag == tar.TypeDir]
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_700_000_000, 0)
		}
		h.Size = int64(len(m.Content))
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, m.Content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// Image makes an image of archives.
func Image(tb testing.TB, layers ...[]byte) v1.Image {
	tb.Helper()
	var plain []oci.PlainLayer
	for _, data := range layers {
		h := sha256.Sum256(data)
		plain = append(plain, oci.PlainLayer{
			Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h[:])}, Size: int64(len(data)),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		})
	}
	img, err := oci.New(v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/probe"}}}, plain...)
	if err != nil {
		tb.Fatal(err)
	}
	return img
}
