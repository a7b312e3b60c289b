package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/OSInside/eos/internal/imagename"
)

// pulled is what the cache keeps of an image in a registry. Its layers are not here: they
// are fetched when somebody reads them.
type pulled struct {
	Top      []byte `json:"top"` // manifest or index with the digest asked for
	Manifest []byte `json:"manifest"`
	Config   []byte `json:"config"`
}

// Pull returns the image of an architecture from a registry. What was pulled once is taken
// from the folder cache, without the registry.
func Pull(ctx context.Context, source imagename.Source, arch, cache string) (v1.Image, error) {
	img, err := pull(ctx, source, arch, cache)
	if err != nil {
		return nil, fmt.Errorf("pull container image %s: %w", source, err)
	}
	return img, nil
}

func pull(ctx context.Context, source imagename.Source, arch, cache string) (v1.Image, error) {
	want, err := v1.NewHash(source.Digest)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cache, "image-"+want.Hex+"-"+arch+".json")
	var p pulled
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.check(want, arch) != nil {
		if p, err = fetch(ctx, source, want, arch); err != nil {
			return nil, err
		}
		if err := p.check(want, arch); err != nil {
			return nil, err
		}
		if err := store(file, p); err != nil {
			return nil, err
		}
	}
	return assemble(p.Manifest, p.Config, func(d v1.Descriptor) (io.ReadCloser, error) {
		r, err := registry(ctx, source)
		if err != nil {
			return nil, err
		}
		l, err := remote.Layer(r.name.Context().Digest(d.Digest.String()), r.options...)
		if err != nil {
			return nil, err
		}
		return l.Compressed()
	})
}

// check follows the sums from the digest to the configuration.
func (p *pulled) check(want v1.Hash, arch string) error {
	if have := sum(p.Top); have != want {
		return fmt.Errorf("read manifest: its sum is %s", have)
	}
	if !bytes.Equal(p.Top, p.Manifest) {
		// Indexes that an index lists are not kept, so they are not followed here.
		chosen, err := choose(p.Top, func(v1.Hash) ([]byte, error) {
			return nil, errors.New("read index: it lists indexes, which is not supported")
		}, arch, 0)
		if err != nil {
			return err
		}
		if have := sum(p.Manifest); have != chosen {
			return fmt.Errorf("read manifest %s: its sum is %s", chosen, have)
		}
	}
	m, err := v1.ParseManifest(bytes.NewReader(p.Manifest))
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if have := sum(p.Config); have != m.Config.Digest {
		return fmt.Errorf("read configuration %s: its sum is %s", m.Config.Digest, have)
	}
	return fits(p.Config, arch)
}

// fetch gets what pulled holds.
func fetch(ctx context.Context, source imagename.Source, want v1.Hash, arch string) (pulled, error) {
	r, err := registry(ctx, source)
	if err != nil {
		return pulled{}, err
	}
	top, err := remote.Get(r.name, r.options...)
	if err != nil {
		return pulled{}, err
	}
	p := pulled{Top: top.Manifest, Manifest: top.Manifest}
	if top.MediaType.IsIndex() {
		chosen, err := choose(top.Manifest, func(v1.Hash) ([]byte, error) {
			return nil, errors.New("read index: it lists indexes, which is not supported")
		}, arch, 0)
		if err != nil {
			return pulled{}, err
		}
		d, err := remote.Get(r.name.Context().Digest(chosen.String()), r.options...)
		if err != nil {
			return pulled{}, err
		}
		p.Manifest = d.Manifest
	} else if !top.MediaType.IsImage() {
		return pulled{}, fmt.Errorf("%q is not the type of an image", top.MediaType)
	}
	m, err := v1.ParseManifest(bytes.NewReader(p.Manifest))
	if err != nil {
		return pulled{}, fmt.Errorf("read manifest: %w", err)
	}
	config, err := remote.Layer(r.name.Context().Digest(m.Config.Digest.String()), r.options...)
	if err != nil {
		return pulled{}, err
	}
	p.Config, err = blobs(func(string) (io.ReadCloser, error) { return config.Compressed() }).document(m.Config.Digest)
	return p, err
}

// connection is how a registry is asked.
type connection struct {
	name    name.Digest
	options []remote.Option
}

func registry(ctx context.Context, source imagename.Source) (*connection, error) {
	n, err := name.NewDigest(source.String(), name.StrictValidation)
	if err != nil {
		return nil, err
	}
	return &connection{n, []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(secure{remote.DefaultTransport}),
	}}, nil
}

// secure refuses to talk in the clear to another machine: the client library does so with
// addresses and names of local networks.
type secure struct{ next http.RoundTripper }

func (s secure) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !imagename.Loopback(r.URL.Host) {
		return nil, fmt.Errorf("connect to %s: it is not this machine, and does not speak https", r.URL.Host)
	}
	return s.next.RoundTrip(r)
}

// store writes p to file, which gets its name when it is whole.
func store(file string, p pulled) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(tmp.Name(), file)
}
