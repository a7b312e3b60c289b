// Package oci gets container images from where they lie, and writes them as archives.
//
// [OpenArchive] reads archives of the OCI and of docker, [OpenFolder] OCI layouts, [Pull] a
// registry. What they return is a v1.Image of go-containerregistry, which this package alone
// imports the registry client of. [New] makes an image of plain layers, [WriteArchive] and
// [WriteSignedArchive] write one so that `podman load` takes it, [Push] puts one and its
// signature into a registry.
//
// An image is that of linux and one architecture; where there is another or more than one,
// that is an error and no guess. Manifests, configurations and blobs are checked against
// the sums they are named by as they are read. A registry is asked for an image by its
// digest only, and over https unless it is on this machine.
//
// What is pulled is not verified by signatures: the digest in the image description is what is
// trusted. [VerifyArchive] is for archives that are signed. Credentials come from where podman and docker keep them.
//
// Images are read when they are asked for: files have to stay until the image is used up.
// Files in the cache of [Pull] get their names when they are whole.
package oci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxDocument bounds manifests, indexes and configurations; real ones have a few KiB.
const maxDocument = 4 << 20

// blobs opens files by their names in an OCI layout.
type blobs func(name string) (io.ReadCloser, error)

// document reads the blob of a digest whole and checks its sum.
func (b blobs) document(d v1.Hash) ([]byte, error) {
	data, err := b.file(blobName(d))
	if err != nil {
		return nil, err
	}
	if have := sum(data); have != d {
		return nil, fmt.Errorf("read %s: its sum is %s", d, have)
	}
	return data, nil
}

// file reads a small file whole.
func (b blobs) file(name string) ([]byte, error) {
	r, err := b(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("it is larger than %d bytes", maxDocument)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func blobName(d v1.Hash) string { return "blobs/" + d.Algorithm + "/" + d.Hex }

// image opens the image of an architecture in a layout.
func (b blobs) image(arch string) (v1.Image, error) {
	data, err := b.file("index.json")
	if err != nil {
		return nil, err
	}
	found, err := choose(data, b.document, arch, 0)
	if err != nil {
		return nil, err
	}
	return b.open(found, arch)
}

// open returns the image with a manifest.
func (b blobs) open(d v1.Hash, arch string) (v1.Image, error) {
	raw, err := b.document(d)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", d, err)
	}
	config, err := b.document(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	if err := fits(config, arch); err != nil {
		return nil, err
	}
	return assemble(raw, config, func(l v1.Descriptor) (io.ReadCloser, error) { return b(blobName(l.Digest)) })
}

// choose returns the digest of the one manifest for linux and arch in an index, and in
// those that it lists.
func choose(index []byte, read func(v1.Hash) ([]byte, error), arch string, depth int) (v1.Hash, error) {
	var found []v1.Hash
	var others []string
	m, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return v1.Hash{}, fmt.Errorf("read index: %w", err)
	}
	for _, d := range m.Manifests {
		if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != arch) {
			others = append(others, p.String())
			continue
		}
		digest := d.Digest
		if d.MediaType.IsIndex() {
			if depth > 2 {
				return v1.Hash{}, errors.New("read index: it lists indexes of indexes of indexes")
			}
			inner, err := read(digest)
			if err != nil {
				return v1.Hash{}, err
			}
			if digest, err = choose(inner, read, arch, depth+1); err != nil {
				return v1.Hash{}, err
			}
		} else if !d.MediaType.IsImage() {
			continue
		}
		found = append(found, digest)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return v1.Hash{}, fmt.Errorf("find image: there is none for linux/%s (there is: %s)", arch, strings.Join(others, ", "))
	}
	return v1.Hash{}, fmt.Errorf("find image: there are %d for linux/%s, want one", len(found), arch)
}

// fits reports a configuration that is for another machine.
func fits(config []byte, arch string) error {
	c, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if c.OS != "linux" || c.Architecture != arch {
		return fmt.Errorf("find image: there is none for linux/%s (there is: %s/%s)", arch, c.OS, c.Architecture)
	}
	return nil
}

// core is an image in parts, for package partial.
type core struct {
	manifest, config []byte
	parsed           *v1.Manifest
	open             func(v1.Descriptor) (io.ReadCloser, error)
}

// assemble returns an image of its parts. Layers are opened when they are read.
func assemble(manifest, config []byte, open func(v1.Descriptor) (io.ReadCloser, error)) (v1.Image, error) {
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return partial.CompressedToImage(&core{manifest, config, parsed, open})
}

func (c *core) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c *core) RawManifest() ([]byte, error)        { return c.manifest, nil }
func (c *core) MediaType() (types.MediaType, error) { return c.parsed.MediaType, nil }
func (c *core) LayerByDigest(d v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range c.parsed.Layers {
		if l.Digest == d {
			return blob{l, c.open}, nil
		}
	}
	return nil, fmt.Errorf("find layer %s: it is not in the manifest", d)
}

// blob is a layer as it is stored.
type blob struct {
	v1.Descriptor
	open func(v1.Descriptor) (io.ReadCloser, error)
}

func (b blob) Digest() (v1.Hash, error)            { return b.Descriptor.Digest, nil }
func (b blob) Size() (int64, error)                { return b.Descriptor.Size, nil }
func (b blob) MediaType() (types.MediaType, error) { return b.Descriptor.MediaType, nil }
func (b blob) Compressed() (io.ReadCloser, error)  { return b.open(b.Descriptor) }

func sum(data []byte) v1.Hash {
	h := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h[:])}
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}
