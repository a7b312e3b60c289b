package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// OpenFolder opens the image of an architecture in an OCI layout.
func OpenFolder(dir, arch string) (v1.Image, error) {
	img, err := blobs(func(name string) (io.ReadCloser, error) { return os.OpenInRoot(dir, name) }).image(arch)
	if err != nil {
		return nil, fmt.Errorf("open container image in %s: %w", dir, err)
	}
	return img, nil
}

// OpenArchive opens the image of an architecture in an archive: one of the OCI, or else one
// that docker or podman saved. An archive of several images is an error. It may not be
// compressed; its layers may.
func OpenArchive(file, arch string) (v1.Image, error) {
	index, _, err := members(file)
	if err != nil {
		return nil, fmt.Errorf("open container archive %s: %w", file, err)
	}
	var img v1.Image
	switch {
	case index["index.json"] != nil:
		img, err = blobs(func(name string) (io.ReadCloser, error) { return openPart(file, index[name], name) }).image(arch)
	case index["manifest.json"] != nil:
		img, err = openDocker(file, arch)
	default:
		err = errors.New("it has no index.json and no manifest.json, as archives of container images have")
	}
	if err != nil {
		return nil, fmt.Errorf("open container archive %s: %w", file, err)
	}
	return img, nil
}

// part is where a file lies in an archive.
type part struct{ at, size int64 }

// members lists the regular files of an archive, and says whether there is anything else in it.
func members(file string) (files map[string]*part, others bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	head := make([]byte, 4)
	if n, _ := f.ReadAt(head, 0); n == len(head) {
		for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zX"} {
			if bytes.HasPrefix(head, []byte(magic)) {
				return nil, false, errors.New("it is compressed; unpack it with gzip -d, zstd -d or xz -d")
			}
		}
	}
	return index(f)
}

// index lists the regular files of a stream. It must be one that can seek, so that the
// contents are passed over.
func index(f io.ReadSeeker) (all map[string]*part, others bool, err error) {
	all = map[string]*part{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return all, others, nil
		}
		if err != nil {
			return nil, false, err
		}
		if h.Typeflag != tar.TypeReg || h.PAXRecords["GNU.sparse.major"] != "" {
			others = true
			continue
		}
		// After Next, f stands at the first byte of the content.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, false, err
		}
		name := path.Clean(h.Name)
		others = others || name != h.Name
		if all[name] != nil {
			return nil, false, fmt.Errorf("it has two files %.300q", name)
		}
		all[name] = &part{at, h.Size}
	}
}

// openPart opens a file in an archive.
func openPart(file string, p *part, name string) (io.ReadCloser, error) {
	if p == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, p.at, p.size), f}, nil
}

// openDocker opens what `docker save` or `podman save` wrote. Such an archive has no
// manifest; it gets one of plain layers, which does not depend on a compressor.
func openDocker(file, arch string) (v1.Image, error) {
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return nil, err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if err := fits(raw, arch); err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("read manifest.json: it has %d layers, the configuration %d", len(layers), len(config.RootFS.DiffIDs))
	}
	var plain []PlainLayer
	for i, l := range layers {
		size, err := length(l)
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", config.RootFS.DiffIDs[i], err)
		}
		plain = append(plain, PlainLayer{Digest: config.RootFS.DiffIDs[i], Size: size, Open: l.Uncompressed})
	}
	return plainImage(raw, plain)
}

// length returns the size of a plain layer.
func length(l v1.Layer) (int64, error) {
	r, err := l.Uncompressed()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(io.Discard, r)
}
