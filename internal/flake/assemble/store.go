package assemble

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/imagename"
)

// maxTable bounds a table of a store, and maxList a file of an image that is read.
const (
	maxTable = 64 << 20
	maxList  = 8 << 20
)

// Store is a container store as podman writes it, read without podman: docs/design/container-store.md
// has the format. The first folder is the one podman writes to. Podman puts whole tables in
// the place of the old ones, so what is read is what was there at one moment.
type Store []string

// Image is an image of a store.
type Image struct {
	ID     string   `json:"id"`
	Digest string   `json:"digest"` // of its manifest
	Names  []string `json:"names"`
	Top    string   `json:"layer"`   // id of its highest layer
	Made   string   `json:"created"` // RFC 3339, of the same zone for all of a store
}

// layer is a layer of a store.
type layer struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
	Diff   string `json:"diff-digest"` // of its plain archive
	Size   int64  `json:"diff-size"`   // of that, in bytes
	dir    string // its files
}

// Images reads the images of all folders, those of the first before the others.
func (s Store) Images() ([]Image, error) {
	var all []Image
	for _, dir := range s {
		var some []Image
		if err := ReadTable(filepath.Join(dir, "overlay-images/images.json"), &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Sync has all that was written to the store on the disk when it returns.
func (s Store) Sync() error {
	f, err := os.Open(s[0])
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	}
	if err != nil {
		return fmt.Errorf("flush container store: %w", err)
	}
	return nil
}

// Chain returns the layers of an image, the highest first.
func (s Store) Chain(i Image) ([]layer, error) {
	byID := map[string]layer{}
	for _, dir := range slices.Backward(s) {
		var some []layer
		if err := ReadTable(filepath.Join(dir, "overlay-layers/layers.json"), &some); err != nil {
			return nil, err
		}
		for _, l := range some {
			l.dir = filepath.Join(dir, "overlay", l.ID, "diff")
			byID[l.ID] = l
		}
	}
	var out []layer
	for id := i.Top; id != ""; id = byID[id].Parent {
		l, ok := byID[id]
		if !ok || len(out) > len(byID) || !imageID.MatchString(id) {
			return nil, fmt.Errorf("read container store: image %.12s: its layer %.12s is not there", i.ID, id)
		}
		out = append(out, l)
	}
	return out, nil
}

// ReadTable reads a table of a store; one that is not there is empty.
func ReadTable(file string, into any) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read container store: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("read container store: %s: %w", file, err)
	}
	return nil
}

var imageID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Find returns the image of a name: a full one, a short one, which means localhost before any
// registry, one with a digest, or an id.
func Find(all []Image, name string) (Image, bool) {
	if id := strings.TrimPrefix(name, "sha256:"); imageID.MatchString(id) {
		for _, i := range all {
			if i.ID == id {
				return i, true
			}
		}
		return Image{}, false
	}
	repository, digest, pinned := strings.Cut(name, "@")
	if full, err := imagename.Local(repository); err == nil && pinned {
		repository = full[:strings.LastIndexByte(full, ':')]
	}
	for _, i := range all {
		if pinned && i.Digest == digest && slices.ContainsFunc(i.Names, func(n string) bool {
			have, _, _ := strings.Cut(n, "@")
			if tag := strings.LastIndexByte(have, ':'); tag > strings.LastIndexByte(have, '/') {
				have = have[:tag]
			}
			return have == repository
		}) {
			return i, true
		}
	}
	full, err := imagename.Local(name)
	if pinned || err != nil {
		return Image{}, false
	}
	for _, i := range all {
		if slices.Contains(i.Names, full) {
			return i, true
		}
	}
	short, local := strings.CutPrefix(full, "localhost/")
	if !local || strings.HasPrefix(name, "localhost/") {
		return Image{}, false
	}
	for _, i := range all {
		if slices.ContainsFunc(i.Names, func(n string) bool { return strings.HasSuffix(n, "/"+short) }) {
			return i, true
		}
	}
	return Image{}, false
}

// tree is the root folder that layers make, the highest first. Links in it lead nowhere
// outside: it is walked one name at a time.
type tree []*os.Root

// openTree opens the layers.
func openTree(chain []layer) (tree, error) {
	var t tree
	for _, l := range chain {
		r, err := os.OpenRoot(l.dir)
		if err != nil {
			t.close()
			return nil, fmt.Errorf("read container store: %w", err)
		}
		t = append(t, r)
	}
	return t, nil
}

func (t tree) close() {
	for _, r := range t {
		r.Close()
	}
}

// lstat returns what the layers have at a path whose folders are no links. A mark of removal
// means that there is nothing.
func (t tree) lstat(name string) (fs.FileInfo, *os.Root, error) {
	for _, r := range t {
		there, last, err := folders(r, name)
		if err != nil {
			return nil, nil, err
		}
		if there {
			st, err := r.Lstat(name)
			switch {
			case err == nil && isRemoval(st):
				return nil, nil, fs.ErrNotExist
			case err == nil:
				return st, r, nil
			case !errors.Is(err, fs.ErrNotExist):
				return nil, nil, err
			}
		}
		if last {
			break
		}
	}
	return nil, nil, fs.ErrNotExist
}

// folders looks at those above a path in one layer: whether they are there, and whether one of
// them hides the layers below, since it was removed, is something else, or replaces the folder.
func folders(r *os.Root, name string) (there, last bool, err error) {
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		st, err := r.Lstat(name[:i])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, last, nil
		case err != nil:
			return false, false, err
		case !st.IsDir():
			return false, true, nil
		}
		last = last || isOpaque(r, name[:i])
	}
	return true, last, nil
}

// isOpaque tells whether a folder of a layer replaces that of the layers below.
func isOpaque(r *os.Root, dir string) bool {
	f, err := r.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, 8)
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Fgetxattr(int(f.Fd()), name, buf); err == nil && string(buf[:n]) == "y" {
			return true
		}
	}
	return false
}

// maxLinks bounds how many links are followed for one name, as the kernel does.
const maxLinks = 40

// stat is lstat of a path whose links are followed, within the tree.
func (t tree) stat(name string) (fs.FileInfo, error) {
	at, rest := "", parts(name)
	for links := 0; ; {
		if len(rest) == 0 {
			at = "."
		} else {
			at, rest = path.Join(at, rest[0]), rest[1:]
		}
		st, root, err := t.lstat(at)
		if err != nil {
			return nil, err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			if len(rest) == 0 {
				return st, nil
			}
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("follow /%s: more than %d links", name, maxLinks)
		}
		target, err := root.Readlink(at)
		if err != nil {
			return nil, err
		}
		rest, at = append(followed(at, target), rest...), ""
	}
}

// parts are the names of which a path is made.
func parts(name string) []string {
	return strings.FieldsFunc(path.Clean("/"+name), func(r rune) bool { return r == '/' })
}

// followed is where a link in a tree leads to.
func followed(link, target string) []string {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(link), target)
	}
	return parts(target)
}

// isRemoval tells whether a file is a mark of removal of overlayfs.
func isRemoval(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && st.Mode()&fs.ModeCharDevice != 0 && sys.Rdev == 0
}

// readList reads a file at the top of the tree; nil if it has none.
func (t tree) readList(name string) ([]byte, error) {
	st, r, err := t.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("/%s is not a plain file", name)
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err == nil && len(data) > maxList {
		err = fmt.Errorf("/%s is longer than %d bytes", name, maxList)
	}
	return data, err
}
