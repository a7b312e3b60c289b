package assemble

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// layerWriter writes the layer of what comes from the host. Names are followed through the
// links of the container below, never through those of the host, and folders on the way
// stay as they are there.
type layerWriter struct {
	below   tree
	out     *tar.Writer
	written map[string]byte               // type of what was written, by its name
	links   map[string]string             // where links lead that were written
	files   map[string]tar.Header         // plain files that were written
	inodes  map[[2]uint64]string          // first name of a file with several
	owner   func(uid, gid int) (int, int) // what an owner on the host is in the container
	room    int64                         // how many bytes of files there may still be
}

// errNoRoom says that there is more to write than the disk has free.
var errNoRoom = errors.New("not enough free space")

// newLayerWriter begins a layer of at most so many bytes of files.
func newLayerWriter(below tree, w io.Writer, room int64) *layerWriter {
	l := &layerWriter{below: below, out: tar.NewWriter(w), written: map[string]byte{}, links: map[string]string{}, files: map[string]tar.Header{}, inodes: map[[2]uint64]string{}, room: room}
	l.owner = func(uid, gid int) (int, int) { return uid, gid }
	if os.Geteuid() != 0 {
		// Whoever is not root is root in his containers, and has nobody else's files.
		l.owner = func(int, int) (int, int) { return 0, 0 }
	}
	return l
}

// place returns where a path comes to lie: its folders without links. Folders that are not
// there yet are made, those that are get an entry of their own, since one without would
// replace them.
func (l *layerWriter) place(name string) (string, error) {
	rest := parts(name)
	if i := slices.IndexFunc(rest, func(s string) bool { return strings.HasPrefix(s, ".wh.") }); i >= 0 {
		return "", fmt.Errorf("/%s: a file with this name would mean that another is removed", name)
	}
	at, links := "", 0
	for len(rest) > 1 {
		next := path.Join(at, rest[0])
		target, err := l.folder(next)
		if err != nil {
			return "", fmt.Errorf("place /%s: %w", name, err)
		}
		at, rest = next, rest[1:]
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("place /%s: more than %d links", name, maxLinks)
		}
		rest, at = append(followed(next, target), rest...), ""
	}
	return path.Join(at, path.Join(rest...)), nil
}

// folder makes one be there, with an entry, or returns what a link in its place says.
func (l *layerWriter) folder(name string) (target string, err error) {
	if kind, ok := l.written[name]; ok {
		if kind != tar.TypeDir && kind != tar.TypeSymlink {
			return "", fmt.Errorf("/%s is no folder", name)
		}
		return l.links[name], nil
	}
	st, root, err := l.below.lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", l.header(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
	case err != nil:
		return "", err
	case st.Mode()&fs.ModeSymlink != 0:
		return root.Readlink(name)
	case !st.IsDir():
		return "", fmt.Errorf("/%s is no folder in the container", name)
	}
	h, err := tar.FileInfoHeader(st, "")
	if err != nil {
		return "", err
	}
	h.Name = name
	return "", l.header(h)
}

// isFolder tells whether a path in the container is one, or a link to one.
func (l *layerWriter) isFolder(name string) bool {
	if kind, ok := l.written[name]; ok {
		return kind == tar.TypeDir
	}
	st, err := l.below.stat(name)
	return err == nil && st.IsDir()
}

func (l *layerWriter) header(h *tar.Header) error {
	h.Format, h.Uname, h.Gname = tar.FormatPAX, "", ""
	// An archive of a few bytes may have a file of any size in it, all holes.
	if l.room -= h.Size; l.room < 0 {
		return fmt.Errorf("/%s, %d bytes: %w", h.Name, h.Size, errNoRoom)
	}
	if l.written[h.Name] == tar.TypeDir && h.Typeflag != tar.TypeDir {
		maps.DeleteFunc(l.written, func(name string, _ byte) bool { return strings.HasPrefix(name, h.Name+"/") })
	}
	l.written[h.Name] = h.Typeflag
	delete(l.links, h.Name)
	switch first, ok := l.files[h.Linkname]; {
	case h.Typeflag == tar.TypeReg:
		l.files[h.Name] = *h
	case h.Typeflag == tar.TypeLink && ok:
		// Podman gives a file what the last entry of it says.
		h.Mode, h.Uid, h.Gid, h.ModTime, h.PAXRecords = first.Mode, first.Uid, first.Gid, first.ModTime, first.PAXRecords
		l.files[h.Name] = first
	}
	if h.Typeflag == tar.TypeSymlink {
		l.links[h.Name] = h.Linkname
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	return l.out.WriteHeader(h)
}

// keptLink tells whether a link stands for a folder that is to be there: it stays, as /lib does
// where that is a link to /usr/lib.
func (l *layerWriter) keptLink(name string) bool {
	if _, ok := l.written[name]; ok {
		return false
	}
	st, _, err := l.below.lstat(name)
	return err == nil && st.Mode()&fs.ModeSymlink != 0 && l.isFolder(name)
}

// file adds a file of the host under a name.
func (l *layerWriter) file(source, name string, st fs.FileInfo, strip bool) error {
	name, err := l.place(name)
	if err != nil {
		return err
	}
	if st.IsDir() && (l.written[name] == tar.TypeDir || l.keptLink(name)) {
		return nil
	}
	target := ""
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		if target, err = os.Readlink(source); err != nil {
			return err
		}
	case !st.IsDir() && !st.Mode().IsRegular():
		return fmt.Errorf("copy %s: it is neither a file, a folder nor a link", source)
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name = name
	h.Uid, h.Gid = l.owner(h.Uid, h.Gid)
	if strip {
		h.Mode &= 0o777
	}
	sys := st.Sys().(*syscall.Stat_t)
	if inode := [2]uint64{sys.Dev, sys.Ino}; st.Mode().IsRegular() && sys.Nlink > 1 {
		if first, ok := l.inodes[inode]; ok {
			return l.header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first})
		}
		l.inodes[inode] = name
	}
	if !strip {
		if h.PAXRecords, err = attributes(source); err != nil {
			return err
		}
	}
	if !st.Mode().IsRegular() {
		return l.header(h)
	}
	f, err := os.OpenFile(source, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer f.Close()
	if err := l.header(h); err != nil {
		return err
	}
	if n, err := io.Copy(l.out, io.LimitReader(f, h.Size)); err != nil || n != h.Size {
		return fmt.Errorf("copy %s: %w", source, errors.Join(err, errors.New("it changed while it was read")))
	}
	return nil
}

// attributes are the extended attributes of a file, as records of an archive.
func attributes(file string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attributes of %s: %w", file, err)
	}
	out := map[string]string{}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
		if string(name) == "security.selinux" || bytes.HasPrefix(name, []byte("trusted.overlay.")) {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(file, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("read attributes of %s: %w", file, err)
		}
		out["SCHILY.xattr."+string(name)] = string(value[:size])
	}
	return out, nil
}

// path adds a file of the host, or a folder with all that is in it, where it lies there.
func (l *layerWriter) path(source string) error {
	return filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("include: %w", err)
		}
		st, err := d.Info()
		if err != nil {
			return fmt.Errorf("include: %w", err)
		}
		if st.Mode()&fs.ModeSocket != 0 {
			return nil // it belongs to a running program
		}
		return l.file(file, strings.TrimPrefix(file, "/"), st, false)
	})
}

// archive adds what is in an archive of tar's, plain or compressed.
func (l *layerWriter) archive(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("include: %w", err)
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return fmt.Errorf("include %s: %w", file, err)
	}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = l.entry(h, in)
		}
		if err != nil {
			return fmt.Errorf("include %s: %w", file, err)
		}
	}
}

// entry adds an entry of an archive.
func (l *layerWriter) entry(h *tar.Header, content io.Reader) error {
	clean := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if clean == "" {
		return nil // the root stays as it is
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeGNUSparse:
	case tar.TypeChar, tar.TypeBlock:
		return fmt.Errorf("/%s: it is a device; --opt '\\--device ...' gives a container one", clean)
	default:
		return nil
	}
	name, err := l.place(clean)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir && (l.written[name] == tar.TypeDir || l.keptLink(name)) {
		return nil
	}
	h.Name = name
	//lint:ignore SA1019 the reader fills it, and the writer does not take both
	h.Xattrs = nil
	h.Uid, h.Gid = l.owner(h.Uid, h.Gid)
	if h.Typeflag == tar.TypeGNUSparse {
		h.Typeflag = tar.TypeReg
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = l.place(h.Linkname); err != nil {
			return err
		}
		if kind, ok := l.written[h.Linkname]; !ok || kind == tar.TypeDir {
			return fmt.Errorf("/%s: it is a link to /%s, which is no file in the archive before it", name, h.Linkname)
		}
		if h.Linkname == name {
			return nil
		}
	}
	records := h.PAXRecords
	h.PAXRecords = nil
	for k, v := range records {
		if strings.HasPrefix(k, "SCHILY.xattr.") && !strings.HasPrefix(k, "SCHILY.xattr.trusted.overlay.") {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[k] = v
		}
	}
	if err := l.header(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		_, err = io.Copy(l.out, content)
	}
	return err
}

// decompress reads what is compressed in one of the ways that tar knows.
func decompress(f io.Reader) (io.Reader, error) {
	r := bufio.NewReader(f)
	magic, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(r)
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(r)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), nil
	}
	return r, nil
}
