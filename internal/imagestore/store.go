// Package imagestore lays out container images as a read-only store that podman uses
// beside its own: the additional image store of containers/storage, driver overlay.
//
// [Write] puts images into a [Tree], which is whatever the caller builds a file system
// from; no file system, no root and no podman are needed for it. Images are v1.Image of
// go-containerregistry: one that is made in memory, or what package oci returns.
//
//	layers, err := imagestore.Write(tree, cache, []imagestore.Image{{Names: []string{"basesystem"}, Image: img}})
//	defer layers.Close() // the tree refers to their files
//
// docs/design/container-store.md has the format. Layers get the ids that podman gives
// them, so an image that is pulled onto a device shares the layers the store has. The same
// images give the same bytes: links are made from layer ids, times are fixed, and what
// podman would draw at random is a hash. Manifest, configuration and layers come out of
// the store (podman save, podman push) with the digests they went in with.
//
// A layer is foreign bytes. Paths that lead out of it, or through a link, files that
// devices and attributes of overlayfs could be smuggled in with, and sums that do not fit
// are errors that name the layer and the file.
//
// Only the overlay driver is supported, no encrypted layers, and no manifests of schema 1.
// podman without root sees the images, and cannot run them. Times inside of layers are whole seconds. Extended attributes other than
// user.*, trusted.* and security.* are left out, as is security.selinux: squashfs does not
// keep them.
//
// Plain layers are kept in the cache by their sum and get their names when they are whole.
// Several builds may share it.
package imagestore

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagename"
)

// Dir is where the store is on a device.
const Dir = "/usr/lib/eos/containers"

// Image is an image and what it is called on the device. Short names are completed: see
// [imagename.Local].
type Image struct {
	Names []string
	Image v1.Image
}

// Tree takes the files of a store. Put is called for a folder before it is for what is in
// it, with a clean path that begins with [Dir]. Hard links come after what they lead to.
type Tree interface {
	Put(path string, f File) error
}

// File is a file of the store.
type File struct {
	Type         byte // one of tar's type flags, TypeLink with the path of the file in Link
	Mode         int64
	UID, GID     int
	Link         string // of a symbolic or hard link
	Major, Minor int64
	ModTime      time.Time // zero where it does not matter
	Xattrs       map[string]string
	Content      *io.SectionReader // of a regular file
}

// Layers are the open files that a tree's contents are in.
type Layers []io.Closer

// Close closes them; the tree is of no use after it.
func (l Layers) Close() error {
	var errs []error
	for _, c := range l {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// epoch is when everything in the store was made, as far as podman is told.
var epoch = time.Unix(0, 0).UTC()

// store is a store being written.
type store struct {
	dst    Tree
	cache  string
	layers map[string]*layer // by id
	images []imageRecord
	open   Layers
}

// Write puts images into dst as a store at [Dir]; without any it is an empty, valid one.
// Layers that are not in the folder cache are put there. What it returns has to be closed
// when dst has been written out.
func Write(dst Tree, cache string, images []Image) (layers Layers, err error) {
	s := &store{dst: dst, cache: cache, layers: map[string]*layer{}}
	defer func() {
		if err != nil {
			s.open.Close()
		}
	}()
	if err := s.dirs("", "overlay", "overlay/l", "overlay-images", "overlay-layers"); err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, i := range images {
		names, err := fullNames(i.Names, taken)
		if err != nil {
			return nil, err
		}
		if err := s.add(names, i.Image); err != nil {
			return nil, fmt.Errorf("store container image %s: %w", names[0], err)
		}
	}
	return s.open, s.finish()
}

// fullNames completes names and refuses those that another image has.
func fullNames(names []string, taken map[string]bool) ([]string, error) {
	var full []string
	for _, n := range names {
		name, err := imagename.Local(n)
		if err != nil {
			return nil, err
		}
		if taken[name] {
			return nil, fmt.Errorf("store container image %s: the name is given twice", name)
		}
		taken[name] = true
		full = append(full, name)
	}
	if len(full) == 0 {
		return nil, errors.New("store container image: it has no name")
	}
	return full, nil
}

// add adds an image with its layers. One that is there already gets more names.
func (s *store) add(names []string, img v1.Image) error {
	m, err := readMeta(img)
	if err != nil {
		return err
	}
	for i := range s.images {
		if r := &s.images[i]; r.ID == m.id() {
			if r.Digest != m.digest() {
				return fmt.Errorf("it has the configuration of %s and another manifest", r.Names[0])
			}
			r.Names = append(r.Names, names...)
			return nil
		}
	}
	contents, err := img.Layers()
	if err != nil {
		return fmt.Errorf("read layers: %w", err)
	}
	if len(contents) != len(m.diffs) {
		return fmt.Errorf("read layers: the manifest has %d, the configuration %d", len(contents), len(m.diffs))
	}
	var below *layer
	for i, l := range contents {
		if below, err = s.addLayer(below, m.diffs[i], m.layers[i], l); err != nil {
			return fmt.Errorf("layer %s: %w", m.diffs[i], err)
		}
	}
	record, data := m.record(names, below)
	s.images = append(s.images, record)
	if err := s.dirs("overlay-images/" + record.ID); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if err := s.file("overlay-images/"+record.ID+"/"+dataFile(name), data[name]); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the tables.
func (s *store) finish() error {
	slices.SortFunc(s.images, func(a, b imageRecord) int { return strings.Compare(a.ID, b.ID) })
	var layers []layerRecord
	for _, l := range s.layers {
		layers = append(layers, l.record)
	}
	// A layer comes after the one below it.
	slices.SortFunc(layers, func(a, b layerRecord) int {
		if d := s.layers[a.ID].depth() - s.layers[b.ID].depth(); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"overlay-images/images.json", table(s.images)}, {"overlay-images/images.lock", nil},
		{"overlay-layers/layers.json", table(layers)}, {"overlay-layers/layers.lock", nil},
	} {
		if err := s.file(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

// put adds a file of the store, name being relative to it.
func (s *store) put(name string, f File) error {
	p := path.Join(Dir, name)
	if err := s.dst.Put(p, f); err != nil {
		return fmt.Errorf("put %s into the store: %w", p, err)
	}
	return nil
}

func (s *store) dirs(names ...string) error {
	for _, n := range names {
		if err := s.put(n, File{Type: tar.TypeDir, Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) file(name string, data []byte) error {
	return s.put(name, File{Type: tar.TypeReg, Mode: 0o644, Content: section(data)})
}

func section(data []byte) *io.SectionReader {
	r := strings.NewReader(string(data))
	return io.NewSectionReader(r, 0, r.Size())
}

// keep remembers a file to close.
func (s *store) keep(f *os.File) *os.File {
	s.open = append(s.open, f)
	return f
}
