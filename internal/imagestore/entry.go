package imagestore

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// entry is a file of a layer.
type entry struct {
	File
	at, size int64 // of the content, in the plain archive
	implied  bool  // a folder that the archive does not have
	white    bool  // stands for a file of a layer below that is gone
}

// entries are the files of a layer by their paths, relative, "" being its root. Hard links
// have the path of a regular file in Link.
type entries map[string]*entry

// readEntries reads a tar archive. The offsets of contents are those in r, which counts
// what is read from it.
func readEntries(r *counter) (entries, error) {
	all := entries{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := all.add(h, r.n); err != nil {
			return nil, fmt.Errorf("%.300q: %w", h.Name, err)
		}
	}
}

// add adds the file of a header whose content is at an offset.
func (all entries) add(h *tar.Header, at int64) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	for e := range strings.SplitSeq(dir, "/") {
		switch {
		case strings.HasPrefix(e, ".wh..wh."):
			return nil // kept by aufs for itself
		case strings.HasPrefix(e, ".wh."):
			return errors.New("lies in a folder that stands for a file that is gone")
		}
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		if h.Size != 0 {
			return errors.New("stands for a file that is gone, and has content")
		}
		return all.hide(dir, hidden, h)
	}
	e, err := newEntry(h, at)
	if err != nil {
		return err
	}
	if e.Type == tar.TypeLink {
		if e, err = all.linked(e); err != nil {
			return err
		}
	}
	if name == "" && e.Type != tar.TypeDir {
		return errors.New("is the root of the layer and no folder")
	}
	if err := all.imply(dir, name); err != nil {
		return err
	}
	return all.set(name, e)
}

// set puts an entry in its place. What a layer hides and has itself is only its own: a
// folder then begins empty.
func (all entries) set(name string, e *entry) error {
	old := all[name]
	switch {
	case old == nil:
	case old.white:
		if e.Type == tar.TypeDir {
			e.opaque()
		}
	case old.implied && e.Type == tar.TypeDir:
		if old.Xattrs[opaqueName] != "" {
			e.opaque()
		}
	case old.Type == tar.TypeDir && e.Type != tar.TypeDir:
		return errors.New("is a folder and a file")
	default:
		return errors.New("is there twice")
	}
	all[name] = e
	return nil
}

// imply makes the folders above name, and refuses to go through anything else.
func (all entries) imply(dir, name string) error {
	if name == "" {
		return nil
	}
	for p := dir; p != ""; p = parent(p) {
		e := all[p]
		switch {
		case e == nil:
			all[p] = &entry{File: File{Type: tar.TypeDir, Mode: 0o755, ModTime: epoch}, implied: true}
		case e.white:
			made := &entry{File: File{Type: tar.TypeDir, Mode: 0o755, ModTime: epoch}, implied: true}
			made.opaque()
			all[p] = made
		case e.Type == tar.TypeSymlink:
			return fmt.Errorf("lies below %q, which is a link", p)
		case e.Type != tar.TypeDir:
			return fmt.Errorf("lies below %q, which is no folder", p)
		}
	}
	return nil
}

// hide does what the file .wh.NAME in dir says.
func (all entries) hide(dir, name string, h *tar.Header) error {
	switch {
	case name == ".wh..opq":
		if err := all.imply(dir, dir+"/x"); err != nil {
			return err
		}
		if dir == "" {
			return errors.New("hides all there is below the layer, which overlayfs does not do")
		}
		all[dir].opaque()
		return nil
	case strings.HasPrefix(name, ".wh."):
		return nil // other marks of aufs, which say nothing here
	case name == "" || name == "." || name == "..":
		return errors.New("hides no file")
	}
	hidden := path.Join(dir, name)
	if err := all.imply(dir, hidden); err != nil {
		return err
	}
	switch e := all[hidden]; {
	case e == nil:
		gone, err := newEntry(&tar.Header{Typeflag: tar.TypeChar, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime}, 0)
		if err != nil {
			return err
		}
		gone.white = true
		all[hidden] = gone
	case e.Type == tar.TypeDir:
		e.opaque()
	}
	return nil
}

// linked resolves a hard link. What is no regular file is simply there twice: nothing can
// be seen of the difference but a number.
func (all entries) linked(e *entry) (*entry, error) {
	target, err := inside(e.Link)
	if err != nil {
		return nil, fmt.Errorf("is a hard link to %.300q, which %w", e.Link, err)
	}
	old := all[target]
	switch {
	case old == nil || old.white:
		return nil, fmt.Errorf("is a hard link to %.300q, which is not in the layer before it", e.Link)
	case old.Type == tar.TypeDir:
		return nil, fmt.Errorf("is a hard link to %.300q, which is a folder", e.Link)
	}
	same := *old
	if old.Type == tar.TypeReg {
		same.Type, same.Link = tar.TypeLink, target
	}
	return &same, nil
}

// root returns the root of a layer: its own, that of the layer below, or a plain one.
func (all entries) root(below *layer) entry {
	switch e := all[""]; {
	case e != nil:
		return *e
	case below != nil:
		return below.root
	}
	return entry{File: File{Type: tar.TypeDir, Mode: rootMode, ModTime: epoch}}
}

// owners returns the users and groups that files belong to, sorted.
func (all entries) owners() (uids, gids []int) {
	for _, e := range all {
		uids, gids = append(uids, e.UID), append(gids, e.GID)
	}
	slices.Sort(uids)
	slices.Sort(gids)
	return slices.Compact(uids), slices.Compact(gids)
}
