package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/sigstore"
)

// payloadAnnotation is the annotation in the index of an archive that has what was signed;
// the signature is where registries have it.
const payloadAnnotation = "eos.signature.payload"

const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// WriteSignedArchive is [WriteArchive] with a signature of the name and the manifest inside.
func WriteSignedArchive(w io.Writer, img v1.Image, name string, sig sigstore.Signature) error {
	if err := writeArchive(tar.NewWriter(w), img, signedAs(name, sig)); err != nil {
		return fmt.Errorf("write container archive: %w", err)
	}
	return nil
}

func signedAs(name string, sig sigstore.Signature) map[string]string {
	return map[string]string{refName: name, sigstore.Annotation: sig.Signature, payloadAnnotation: string(sig.Payload)}
}

// Verified is what is known of an archive whose signature verifies.
type Verified struct {
	Name   string
	Digest string // of the manifest
	ID     string // of the image: the digest of its configuration
	Labels map[string]string
	Key    key.Public
}

// VerifyArchive reads an archive of [WriteSignedArchive] whole. One of the keys has signed
// its name and all that podman takes from it, or there is an error, which is
// [sigstore.ErrUnverified] unless the file cannot be read.
func VerifyArchive(file string, keys []key.Public) (*Verified, error) {
	v, err := verify(file, keys)
	if err != nil {
		return nil, fmt.Errorf("verify container archive %s: %w", file, err)
	}
	return v, nil
}

func unverified(what string) error { return fmt.Errorf("%w: %s", sigstore.ErrUnverified, what) }

func verify(file string, keys []key.Public) (*Verified, error) {
	parts, others, err := members(file)
	if err != nil {
		return nil, err
	}
	b := blobs(func(name string) (io.ReadCloser, error) { return openPart(file, parts[name], name) })
	index, err := b.file("index.json")
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Annotations[sigstore.Annotation] == "" {
		return nil, unverified("the archive has none")
	}
	d := m.Manifests[0]
	name, sig := d.Annotations[refName], sigstore.Signature{Payload: []byte(d.Annotations[payloadAnnotation]), Signature: d.Annotations[sigstore.Annotation]}
	claim, by, err := sigstore.Verify(sig, keys)
	if err != nil {
		return nil, err
	}
	if claim != (sigstore.Claim{Reference: name, Digest: d.Digest.String()}) {
		return nil, unverified(fmt.Sprintf("it is of %s, %s", claim.Reference, claim.Digest))
	}
	img, err := b.verified(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sigstore.ErrUnverified, err)
	}
	// What the signature does not cover says nothing of its own: podman might listen to it.
	wanted, err := indexOf(img, signedAs(name, sig))
	if err != nil {
		return nil, err
	}
	layout, err := b.file("oci-layout")
	if err != nil {
		return nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	expected := map[string]bool{"oci-layout": true, "index.json": true, blobName(d.Digest): true, blobName(manifest.Config.Digest): true}
	for _, l := range manifest.Layers {
		expected[blobName(l.Digest)] = true
	}
	if !bytes.Equal(index, wanted) || string(layout) != layoutFile || others || len(parts) != len(expected) {
		return nil, unverified("the archive has more than what was signed")
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return &Verified{Name: name, Digest: d.Digest.String(), ID: manifest.Config.Digest.String(), Labels: config.Config.Labels, Key: by}, nil
}

// verified opens the image of a manifest and reads all of it.
func (b blobs) verified(d v1.Hash) (v1.Image, error) {
	raw, err := b.document(d)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	config, err := b.document(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		r, err := b(blobName(l.Digest))
		if err != nil {
			return nil, err
		}
		have, size, err := v1.SHA256(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("read layer %s: %w", l.Digest, err)
		}
		if have != l.Digest || size != l.Size {
			return nil, fmt.Errorf("read layer %s: its sum is %s", l.Digest, have)
		}
	}
	return assemble(raw, config, func(l v1.Descriptor) (io.ReadCloser, error) { return b(blobName(l.Digest)) })
}
