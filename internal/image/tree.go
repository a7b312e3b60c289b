package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// A node is one file of the root that is being put together. Its content is
// either in memory or a range of a file on disk, so that a root of several
// hundred megabytes costs only its names.
type node struct {
	typ    byte // one of tar's type flags
	mode   int64
	uid    int
	gid    int
	link   string // target of a symbolic link
	major  int64
	minor  int64
	mtime  time.Time
	xattrs map[string]string // PAX records SCHILY.xattr.*
	size   int64
	data   []byte      // content, when src is nil
	src    io.ReaderAt // content at [off, off+size)
	off    int64
	shared *node // a hard link: the node that holds the content
	keep   bool  // has a time of its own, which clamp does not change
}

// content returns a reader of the node's content.
func (n *node) content() io.Reader {
	if n.src != nil {
		return io.NewSectionReader(n.src, n.off, n.size)
	}
	return bytes.NewReader(n.data)
}

func (n *node) bytes() ([]byte, error) { return io.ReadAll(n.content()) }

// A tree is a root file system in memory: clean absolute path to node. It is
// written out sorted, so the order of building it never shows.
type tree struct {
	nodes map[string]*node
}

func newTree() *tree {
	t := &tree{nodes: map[string]*node{}}
	t.nodes["/"] = &node{typ: tar.TypeDir, mode: 0o755}
	return t
}

// readTree indexes the uncompressed tar archive f. The contents stay in f,
// which must stay open as long as the tree is used.
func readTree(f *os.File) (*tree, error) {
	t := newTree()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read root archive: %w", err)
		}
		n := &node{
			typ: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid,
			major: h.Devmajor, minor: h.Devminor, mtime: h.ModTime,
		}
		for k, v := range h.PAXRecords {
			switch {
			case strings.HasPrefix(k, "SCHILY.xattr."):
				if n.xattrs == nil {
					n.xattrs = map[string]string{}
				}
				n.xattrs[k] = v
			case strings.HasPrefix(k, "GNU.sparse."):
				return nil, fmt.Errorf("read root archive: %s is stored sparse, which is not supported", h.Name)
			}
		}
		name := clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			n.size, n.src = h.Size, f
			// tar.Reader reads whole blocks straight from f: after Next, f
			// stands at the first byte of the content.
			if n.off, err = f.Seek(0, io.SeekCurrent); err != nil {
				return nil, fmt.Errorf("read root archive: %w", err)
			}
		case tar.TypeLink:
			target := t.nodes[clean(h.Linkname)]
			if target == nil {
				return nil, fmt.Errorf("read root archive: %s is a hard link to %s, which is not there", h.Name, h.Linkname)
			}
			n = target.holder().linked()
		case tar.TypeSymlink:
			n.link, n.mode = h.Linkname, 0o777
		case tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		default:
			return nil, fmt.Errorf("read root archive: %s has the unknown type %q", h.Name, h.Typeflag)
		}
		t.nodes[name] = n
	}
}

// linked returns a second name for a regular file.
func (n *node) linked() *node {
	second := *n
	second.shared = n
	return &second
}

// holder returns the node that stands for the file itself, whatever its names.
func (n *node) holder() *node {
	if n.shared != nil {
		return n.shared
	}
	return n
}

func clean(name string) string { return path.Clean("/" + name) }

// names returns all paths, sorted so that folders come before their content.
func (t *tree) names() []string { return slices.Sorted(maps.Keys(t.nodes)) }

func (t *tree) get(name string) *node { return t.nodes[clean(name)] }

// mkdirs makes the folders above name that are missing.
func (t *tree) mkdirs(name string) {
	for dir := path.Dir(clean(name)); t.nodes[dir] == nil; dir = path.Dir(dir) {
		t.nodes[dir] = &node{typ: tar.TypeDir, mode: 0o755}
	}
}

// put sets name to n; missing folders are made.
func (t *tree) put(name string, n *node) {
	t.mkdirs(name)
	t.nodes[clean(name)] = n
}

// write sets name to a file owned by root.
func (t *tree) write(name string, mode int64, data []byte) {
	t.put(name, &node{typ: tar.TypeReg, mode: mode, size: int64(len(data)), data: data})
}

// rewrite replaces the content of name and keeps owner and mode.
func (t *tree) rewrite(name string, data []byte) {
	n := *t.get(name)
	n.data, n.size, n.src, n.shared = data, int64(len(data)), nil, nil
	t.nodes[clean(name)] = &n
}

func (t *tree) symlink(name, target string) {
	t.put(name, &node{typ: tar.TypeSymlink, mode: 0o777, link: target})
}

func (t *tree) mkdir(name string, mode int64) {
	t.put(name, &node{typ: tar.TypeDir, mode: mode})
}

// read returns the content of the regular file name.
func (t *tree) read(name string) ([]byte, error) {
	n := t.get(name)
	if n == nil {
		return nil, fmt.Errorf("read %s in the image: %w", name, os.ErrNotExist)
	}
	if n.typ != tar.TypeReg {
		return nil, fmt.Errorf("read %s in the image: not a regular file", name)
	}
	return n.bytes()
}

// remove takes name and everything below it out.
func (t *tree) remove(name string) {
	name = clean(name)
	delete(t.nodes, name)
	prefix := name + "/"
	for p := range t.nodes {
		if strings.HasPrefix(p, prefix) {
			delete(t.nodes, p)
		}
	}
}

// below returns the paths under dir, sorted, without dir itself.
func (t *tree) below(dir string) []string {
	prefix := clean(dir) + "/"
	var out []string
	for p := range t.nodes {
		if strings.HasPrefix(p, prefix) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// move renames a folder with everything below it.
func (t *tree) move(from, to string) {
	from, to = clean(from), clean(to)
	for _, p := range append([]string{from}, t.below(from)...) {
		n := t.nodes[p]
		if n == nil {
			continue
		}
		delete(t.nodes, p)
		t.put(to+strings.TrimPrefix(p, from), n)
	}
}

// checkWhole reports a file whose folder is missing or is no folder.
func (t *tree) checkWhole() error {
	for _, p := range t.names() {
		dir := t.nodes[path.Dir(p)]
		if dir == nil || dir.typ != tar.TypeDir {
			return fmt.Errorf("put %s into the image: %s is not a folder there", p, path.Dir(p))
		}
	}
	return nil
}

// clamp gives everything the same time. A root that is rebuilt changes only
// where its content does, and no builder's clock shows in it. Files of container images
// keep the times that are in their layers.
func (t *tree) clamp(at time.Time) {
	for _, n := range t.nodes {
		if !n.keep {
			n.mtime = at
		}
	}
}

// writeTar writes the tree as a tar stream, sorted by path.
func (t *tree) writeTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	first := map[*node]string{} // content holder of hard links -> name it was written under
	for _, p := range t.names() {
		if err := t.writeNode(tw, p, first); err != nil {
			return fmt.Errorf("write %s of the image: %w", p, err)
		}
	}
	return tw.Close()
}

func (t *tree) writeNode(tw *tar.Writer, p string, first map[*node]string) error {
	n := t.nodes[p]
	name := strings.TrimPrefix(p, "/")
	if n.typ == tar.TypeDir {
		name += "/"
	}
	if p == "/" {
		name = "./"
	}
	h := &tar.Header{
		Typeflag: n.typ, Name: name, Mode: n.mode, Uid: n.uid, Gid: n.gid,
		ModTime: n.mtime, Linkname: n.link, Devmajor: n.major, Devminor: n.minor,
		Size: n.size, PAXRecords: n.xattrs, Format: tar.FormatPAX,
	}
	if n.typ == tar.TypeReg {
		holder := n.holder()
		if target, written := first[holder]; written {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
			return tw.WriteHeader(h)
		}
		first[holder] = name
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if n.typ != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(tw, n.content())
	return err
}

// digest returns a hash over everything that ends up in the image.
func (t *tree) digest() ([32]byte, error) {
	h := sha256.New()
	first := map[*node]string{}
	field := func(b []byte) {
		var l [8]byte
		binary.LittleEndian.PutUint64(l[:], uint64(len(b)))
		h.Write(l[:])
		h.Write(b)
	}
	for _, p := range t.names() {
		n := t.nodes[p]
		field([]byte(p))
		field(fmt.Appendf(nil, "%c %o %d %d %q %d %d %d", n.typ, n.mode, n.uid, n.gid,
			n.link, n.major, n.minor, n.mtime.Unix()))
		for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
			field([]byte(k))
			field([]byte(n.xattrs[k]))
		}
		if n.typ != tar.TypeReg {
			continue
		}
		holder := n.holder()
		if target, seen := first[holder]; seen {
			field([]byte("link " + target))
			continue
		}
		first[holder] = p
		field(fmt.Appendf(nil, "%d", n.size))
		if c, err := io.Copy(h, n.content()); err != nil {
			return [32]byte{}, fmt.Errorf("read %s: %w", p, err)
		} else if c != n.size {
			return [32]byte{}, fmt.Errorf("read %s: %w", p, io.ErrUnexpectedEOF)
		}
	}
	return [32]byte(h.Sum(nil)), nil
}
