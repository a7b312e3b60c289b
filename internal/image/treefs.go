package image

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"path"
	"time"
)

// treeFS shows a folder of a tree as an fs.FS, as far as packages that read
// files by name need it: it does not list folders.
type treeFS struct {
	t   *tree
	dir string
}

func (f treeFS) lookup(op, name string) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n := f.t.get(path.Join(f.dir, name))
	if n == nil || n.typ != tar.TypeReg {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

func (f treeFS) Open(name string) (fs.File, error) {
	n, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	return &treeFile{n: n, name: path.Base(name), Reader: n.content()}, nil
}

func (f treeFS) ReadFile(name string) ([]byte, error) {
	n, err := f.lookup("read", name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(int(n.size) + bytes.MinRead)
	_, err = b.ReadFrom(n.content())
	return b.Bytes(), err
}

type treeFile struct {
	io.Reader
	n    *node
	name string
}

func (f *treeFile) Close() error               { return nil }
func (f *treeFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *treeFile) Name() string               { return f.name }
func (f *treeFile) Size() int64                { return f.n.size }
func (f *treeFile) Mode() fs.FileMode          { return fs.FileMode(f.n.mode).Perm() }
func (f *treeFile) ModTime() time.Time         { return f.n.mtime }
func (f *treeFile) IsDir() bool                { return false }
func (f *treeFile) Sys() any                   { return nil }
