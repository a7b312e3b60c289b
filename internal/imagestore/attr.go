package imagestore

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Limits of the file systems that a layer ends up in.
const (
	maxPath  = 4095
	maxName  = 255
	maxOwner = 1<<32 - 2
	maxTime  = 1<<32 - 1 // seconds
)

// inside returns a path as one below the root of the layer, "" being that.
func inside(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("has no name")
	case name[0] == '/':
		return "", errors.New("is an absolute path")
	case strings.Contains(name, "\x00"):
		return "", errors.New("has a zero byte in its name")
	case len(name) > maxPath:
		return "", fmt.Errorf("is longer than %d bytes", maxPath)
	}
	for e := range strings.SplitSeq(name, "/") {
		if e == ".." {
			return "", errors.New("leads out of the layer")
		}
		if len(e) > maxName {
			return "", fmt.Errorf("has a part longer than %d bytes", maxName)
		}
	}
	name = path.Clean(name)
	if name == "." {
		return "", nil
	}
	return name, nil
}

func parent(name string) string {
	at := strings.LastIndexByte(name, '/')
	return name[:max(at, 0)]
}

// opaqueName marks a folder as hiding what layers below have in it.
const opaqueName = "trusted.overlay.opaque"

func (e *entry) opaque() {
	if e.Xattrs == nil {
		e.Xattrs = map[string]string{}
	}
	e.Xattrs[opaqueName] = "y"
}

// newEntry takes the attributes of a file over.
func newEntry(h *tar.Header, at int64) (*entry, error) {
	e := &entry{at: at, File: File{
		Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid,
		ModTime: time.Unix(min(max(h.ModTime.Unix(), 0), maxTime), 0).UTC(),
	}}
	if h.Uid < 0 || h.Uid > maxOwner || h.Gid < 0 || h.Gid > maxOwner {
		return nil, fmt.Errorf("belongs to %d:%d, which are no numbers of accounts", h.Uid, h.Gid)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.size = h.Size
	case tar.TypeSymlink:
		e.Mode = 0o777
		fallthrough
	case tar.TypeLink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.Contains(h.Linkname, "\x00") {
			return nil, fmt.Errorf("is a link to %.300q, which is no path", h.Linkname)
		}
		e.Link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("is the device %d:%d, which cannot be", h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = h.Devmajor, h.Devminor
	case tar.TypeDir, tar.TypeFifo:
	default:
		return nil, fmt.Errorf("has the unknown type %q", h.Typeflag)
	}
	return e, e.setXattrs(h)
}

// setXattrs takes extended attributes over, as far as squashfs keeps them.
func (e *entry) setXattrs(h *tar.Header) error {
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return errors.New("is stored sparse, which is not supported")
		}
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			return fmt.Errorf("has the attribute %.100q, which is for overlayfs alone", name)
		}
		space, rest, _ := strings.Cut(name, ".")
		if rest == "" || !slices.Contains([]string{"user", "trusted", "security"}, space) || name == "security.selinux" {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = value
	}
	return nil
}
