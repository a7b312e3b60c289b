package oci

import (
	"archive/tar"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PlainLayer is the uncompressed archive of a layer.
type PlainLayer struct {
	Digest v1.Hash // of the archive
	Size   int64
	Open   func() (io.ReadCloser, error)
}

// New makes an image of plain layers, the lowest first. The configuration gets their sums.
func New(config v1.ConfigFile, layers ...PlainLayer) (v1.Image, error) {
	config.RootFS = v1.RootFS{Type: "layers"}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	text, err := marshal(config)
	if err != nil {
		return nil, fmt.Errorf("make container image: %w", err)
	}
	return plainImage(text, layers)
}

// plainImage makes an image with a configuration as it is.
func plainImage(config []byte, layers []PlainLayer) (v1.Image, error) {
	m := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: sum(config)},
		Layers:        []v1.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: l.Size, Digest: l.Digest})
	}
	manifest, err := marshal(m)
	if err != nil {
		return nil, fmt.Errorf("make container image: %w", err)
	}
	return assemble(manifest, config, func(d v1.Descriptor) (io.ReadCloser, error) {
		i := slices.IndexFunc(layers, func(l PlainLayer) bool { return l.Digest == d.Digest })
		return layers[i].Open()
	})
}

// refName is the annotation that `podman load` takes the name of an image from.
const refName = "org.opencontainers.image.ref.name"

// WriteArchive writes an image as an OCI archive under a full name. The same image gives
// the same bytes.
func WriteArchive(w io.Writer, img v1.Image, name string) error {
	if err := writeArchive(tar.NewWriter(w), img, map[string]string{refName: name}); err != nil {
		return fmt.Errorf("write container archive: %w", err)
	}
	return nil
}

// indexOf returns the index of an archive of one image.
func indexOf(img v1.Image, annotations map[string]string) ([]byte, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	return marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: mediaType, Size: int64(len(manifest)), Digest: sum(manifest), Annotations: annotations,
		}},
	})
}

func writeArchive(tw *tar.Writer, img v1.Image, annotations map[string]string) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	index, err := indexOf(img, annotations)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"oci-layout", []byte(layoutFile)}, {"index.json", index},
		{blobName(sum(manifest)), manifest}, {blobName(sum(config)), config},
	} {
		if err := writeHeader(tw, f.name, int64(len(f.data))); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	written := map[v1.Hash]bool{}
	for _, l := range layers {
		if err := writeLayer(tw, l, written); err != nil {
			return err
		}
	}
	return tw.Close()
}

// writeLayer writes the blob of a layer, once.
func writeLayer(tw *tar.Writer, l v1.Layer, written map[v1.Hash]bool) error {
	digest, err := l.Digest()
	if err != nil || written[digest] {
		return err
	}
	written[digest] = true
	size, err := l.Size()
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := writeHeader(tw, blobName(digest), size); err != nil {
		return err
	}
	_, err = io.Copy(tw, r)
	return err
}

func writeHeader(tw *tar.Writer, name string, size int64) error {
	return tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
}
