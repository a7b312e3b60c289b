package oci

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/sigstore"
)

// Compress returns the image with its layers compressed, which are files in dir. It is the
// same image by its id, under another digest.
func Compress(img v1.Image, dir string) (v1.Image, error) {
	packed, err := compress(img, dir)
	if err != nil {
		return nil, fmt.Errorf("compress container image: %w", err)
	}
	return packed, nil
}

func compress(img v1.Image, dir string) (v1.Image, error) {
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: sum(config)},
		Layers: []v1.Descriptor{},
	}
	for _, l := range layers {
		d, err := compressLayer(l, dir)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
	}
	manifest, err := marshal(m)
	if err != nil {
		return nil, err
	}
	return assemble(manifest, config, func(d v1.Descriptor) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, d.Digest.Hex)) })
}

// compressLayer writes a layer to a file that is named by its sum.
func compressLayer(l v1.Layer, dir string) (v1.Descriptor, error) {
	r, err := l.Uncompressed()
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer r.Close()
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	_, err = io.Copy(z, r)
	if err := errors.Join(err, z.Close()); err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return v1.Descriptor{}, err
	}
	digest, size, err := v1.SHA256(f)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: types.OCILayer, Size: size, Digest: digest}, os.Rename(f.Name(), filepath.Join(dir, digest.Hex))
}

// Push puts an image into a registry, and its signature beside it. The tag is moved last, so
// that it never names an image that is not signed. Signatures that are there stay. A registry
// on another machine is talked to over https, unless insecure is set.
func Push(ctx context.Context, img v1.Image, to imagename.Target, sig sigstore.Signature, insecure bool) error {
	if err := push(ctx, img, to, sig, insecure); err != nil {
		return fmt.Errorf("push container image %s: %w", to, err)
	}
	return nil
}

func push(ctx context.Context, img v1.Image, to imagename.Target, sig sigstore.Signature, insecure bool) error {
	var through http.RoundTripper = secure{remote.DefaultTransport}
	var strict []name.Option
	if insecure {
		through, strict = remote.DefaultTransport, []name.Option{name.Insecure}
	}
	tag, err := name.NewTag(to.String(), append(strict, name.StrictValidation)...)
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(through),
	}
	if err := remote.Write(tag.Digest(digest.String()), img, options...); err != nil {
		return err
	}
	beside := tag.Tag(sigstore.Tag(digest.String()))
	signatures, err := attach(beside, sig, options)
	if err != nil {
		return fmt.Errorf("read signatures: %w", err)
	}
	if err := remote.Write(beside, signatures, options...); err != nil {
		return fmt.Errorf("write signatures: %w", err)
	}
	return remote.Tag(tag, img, options...)
}

// attach returns the signatures of a manifest that are there, and this one.
func attach(beside name.Tag, sig sigstore.Signature, options []remote.Option) (v1.Image, error) {
	layer := static.NewLayer(sig.Payload, sigstore.LayerType)
	signatures, err := remote.Image(beside, options...)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		signatures, err = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), nil
	}
	if err != nil {
		return nil, err
	}
	m, err := signatures.Manifest()
	if err != nil {
		return nil, err
	}
	digest, err := layer.Digest()
	if err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if l.Digest == digest && l.Annotations[sigstore.Annotation] == sig.Signature {
			return signatures, nil
		}
	}
	return mutate.Append(signatures, mutate.Addendum{Layer: layer, Annotations: map[string]string{sigstore.Annotation: sig.Signature}})
}
