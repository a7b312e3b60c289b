package repository

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"

	version "github.com/knqyf263/go-deb-version"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/slotimage"
)

// Channels that devices follow: Stable, unless they are told otherwise. Other
// names may be used as well.
const (
	Stable  = "stable"
	Testing = "testing"
)

// entryFormat is the version of the custom metadata. A reader passes over
// entries of other formats, so that new kinds can be published beside old.
const entryFormat = 1

// An Image is one published slot image.
type Image struct {
	Name        string `json:"name"`
	Class       string `json:"class"`
	Arch        string `json:"arch"`
	Version     string `json:"version"`
	BuildID     string `json:"build_id"`
	Channel     string `json:"channel"`
	DataSize    int64  `json:"data_size"`
	ImageSize   int64  `json:"image_size"`
	MinSlotSize int64  `json:"min_slot_size"`
	Built       int64  `json:"built"` // Unix time

	Manifest File `json:"manifest"`
	Index    File `json:"index"`
	Blob     File `json:"blob"`
}

// A File is one file of an image. Path is its TUF target path.
type File struct {
	Path   string `json:"path"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// url returns the file's place below the repository: with consistent
// snapshots the hash is part of the name.
func (f File) url() string {
	return path.Join("targets", path.Dir(f.Path), f.SHA256+"."+path.Base(f.Path))
}

// entry is the custom metadata of a manifest target.
type entry struct {
	Format      int    `json:"format"`
	Name        string `json:"name"`
	Class       string `json:"class"`
	Arch        string `json:"arch"`
	Version     string `json:"version"`
	BuildID     string `json:"build_id"`
	Channel     string `json:"channel"`
	DataSize    int64  `json:"data_size"`
	ImageSize   int64  `json:"image_size"`
	MinSlotSize int64  `json:"min_slot_size"`
	Built       int64  `json:"built"`
	Index       string `json:"index"`
	Blob        string `json:"blob"`
}

// word is what may be part of a target path. A path separator, a leading dot
// and the percent sign are not in it.
var word = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+~:-]{0,127}$`)

// A Catalog is what a repository offers, as its targets metadata says.
type Catalog struct {
	images   []Image
	problems []string
}

// newCatalog reads verified targets metadata. An entry that makes no sense is
// left out and noted: it must not keep a device from its other images.
func newCatalog(targets map[string]*metadata.TargetFiles) *Catalog {
	c := &Catalog{}
	paths := make([]string, 0, len(targets))
	for p := range targets {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		if path.Base(p) != "manifest" {
			continue
		}
		img, ok, err := newImage(p, targets)
		if err != nil {
			c.problems = append(c.problems, fmt.Sprintf("%s: %v", p, err))
		} else if ok {
			c.images = append(c.images, img)
		}
	}
	slices.SortStableFunc(c.images, func(a, b Image) int {
		return cmp.Or(
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Class, b.Class),
			cmp.Compare(a.Arch, b.Arch), CompareVersions(a.Version, b.Version),
			cmp.Compare(a.Version, b.Version),
		)
	})
	return c
}

// newImage reads the entry at p; ok is false when it is of another format.
func newImage(p string, targets map[string]*metadata.TargetFiles) (img Image, ok bool, err error) {
	t := targets[p]
	if t == nil || t.Custom == nil {
		return Image{}, false, nil
	}
	var e entry
	if err := json.Unmarshal(*t.Custom, &e); err != nil {
		return Image{}, false, fmt.Errorf("custom metadata: %w", err)
	}
	if e.Format != entryFormat {
		return Image{}, false, nil
	}
	img = Image{
		Name: e.Name, Class: e.Class, Arch: e.Arch, Version: e.Version, BuildID: e.BuildID,
		Channel: e.Channel, DataSize: e.DataSize, ImageSize: e.ImageSize,
		MinSlotSize: e.MinSlotSize, Built: e.Built,
	}
	for _, f := range []struct{ what, value string }{
		{"name", e.Name}, {"class", e.Class}, {"arch", e.Arch}, {"version", e.Version}, {"channel", e.Channel},
	} {
		if !word.MatchString(f.value) {
			return Image{}, false, fmt.Errorf("%s is %q", f.what, f.value)
		}
	}
	if _, err := version.NewVersion(e.Version); err != nil {
		return Image{}, false, fmt.Errorf("version %q: %w", e.Version, err)
	}
	if want := targetPath(e.Name, e.Class, e.Version, "manifest"); p != want {
		return Image{}, false, fmt.Errorf("entry is for %s", want)
	}
	for _, f := range []struct {
		to   *File
		path string
	}{{&img.Manifest, p}, {&img.Index, e.Index}, {&img.Blob, e.Blob}} {
		if *f.to, err = newFile(f.path, targets); err != nil {
			return Image{}, false, err
		}
	}
	switch {
	case img.Manifest.Length != slotimage.BlockSize:
		err = fmt.Errorf("manifest block has %d bytes", img.Manifest.Length)
	case e.DataSize <= 0 || e.DataSize%slotimage.BlockSize != 0 || img.Blob.Length != e.DataSize+slotimage.BlockSize:
		err = fmt.Errorf("blob has %d bytes for %d bytes of data", img.Blob.Length, e.DataSize)
	case e.ImageSize < img.Blob.Length || e.MinSlotSize < e.ImageSize:
		err = fmt.Errorf("image size %d, slot size %d for a blob of %d bytes", e.ImageSize, e.MinSlotSize, img.Blob.Length)
	}
	return img, err == nil, err
}

func newFile(p string, targets map[string]*metadata.TargetFiles) (File, error) {
	t := targets[p]
	if t == nil {
		return File{}, fmt.Errorf("no target %q", p)
	}
	sum := t.Hashes["sha256"]
	if len(sum) != 32 || t.Length < 0 {
		return File{}, fmt.Errorf("target %q has no SHA-256", p)
	}
	return File{Path: p, Length: t.Length, SHA256: hex.EncodeToString(sum)}, nil
}

func targetPath(name, class, version, file string) string {
	return name + "/" + class + "/" + version + "/" + file
}

// All returns every image, sorted by name, class, architecture and version.
func (c *Catalog) All() []Image { return slices.Clone(c.images) }

// Images returns the images for a device, oldest first.
func (c *Catalog) Images(name, class, arch string) []Image {
	var out []Image
	for _, img := range c.images {
		if img.Name == name && img.Class == class && img.Arch == arch {
			out = append(out, img)
		}
	}
	return out
}

// Latest returns the newest image for a device that follows channel, and
// whether there is one. What is stable is good for every channel: a device
// that tests goes on with what became of the test.
func (c *Catalog) Latest(name, class, arch, channel string) (Image, bool) {
	for _, img := range slices.Backward(c.Images(name, class, arch)) {
		if img.Channel == channel || img.Channel == Stable {
			return img, true
		}
	}
	return Image{}, false
}

// Find returns the image of a given version for a device.
func (c *Catalog) Find(name, class, arch, version string) (Image, bool) {
	for _, img := range c.Images(name, class, arch) {
		if img.Version == version {
			return img, true
		}
	}
	return Image{}, false
}

// Problems says in words which entries were left out and why.
func (c *Catalog) Problems() []string { return slices.Clone(c.problems) }

// CompareVersions compares by Debian's rules; what they do not allow is older
// than anything they do.
func CompareVersions(a, b string) int {
	va, erra := version.NewVersion(a)
	vb, errb := version.NewVersion(b)
	switch {
	case erra != nil && errb != nil:
		return cmp.Compare(a, b)
	case erra != nil:
		return -1
	case errb != nil:
		return 1
	}
	return cmp.Compare(va.Compare(vb), 0)
}
