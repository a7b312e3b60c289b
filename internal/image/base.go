package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/oci"
	"github.com/OSInside/eos/internal/toolstree"
)

// ContainerOptions says which container to build and where.
type ContainerOptions struct {
	Spec     *imagespec.ContainerSpec
	OutDir   string   // made if it is missing
	CacheDir string   // empty: that of the tools tree
	Refresh  bool     // fetch packages again
	Epoch    int64    // seconds; 0: SOURCE_DATE_EPOCH, else from the packages
	Progress Progress // may be nil
}

// BuildContainer builds a container on its own, as the archive NAME.oci.tar that podman
// loads. The same inputs give the same bytes.
func BuildContainer(ctx context.Context, o ContainerOptions) (Output, error) {
	if o.Progress == nil {
		o.Progress = cli.NoProgress()
	}
	cache := o.CacheDir
	if cache == "" {
		var err error
		if cache, err = toolstree.CacheDir(); err != nil {
			return Output{}, err
		}
	}
	for _, dir := range []string{cache, o.OutDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Output{}, fmt.Errorf("prepare build: %w", err)
		}
	}
	o.Progress.Stage("container", 0)
	defer o.Progress.Done()
	img, err := makeContainer(ctx, o.Spec, cache, o.Epoch, o.Refresh)
	if err != nil {
		return Output{}, err
	}
	name, err := imagename.Local(o.Spec.Name)
	if err != nil {
		return Output{}, err
	}
	out := Output{Kind: "oci", Path: filepath.Join(o.OutDir, o.Spec.Name+".oci.tar")}
	if err := writeFile(out.Path, func(w io.Writer) error { return oci.WriteArchive(w, img, name) }); err != nil {
		return Output{}, err
	}
	prune(cache)
	fi, err := os.Stat(out.Path)
	if err != nil {
		return Output{}, err
	}
	out.Size = fi.Size()
	return out, nil
}

// makeContainer makes the image of a container description: one layer, a file in the cache.
func makeContainer(ctx context.Context, s *imagespec.ContainerSpec, cache string, epoch int64, refresh bool) (v1.Image, error) {
	packages := slices.Sorted(slices.Values(s.Packages))
	archive, err := fetchRoot(ctx, cache, bootstrap{
		Suite: s.Debian.Suite, Arch: s.Arch, Mirror: s.Debian.Mirror, Packages: slices.Compact(packages),
	}, refresh)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(archive.Path)
	if err != nil {
		return nil, fmt.Errorf("read root archive: %w", err)
	}
	defer f.Close()
	t, err := readTree(f)
	if err != nil {
		return nil, err
	}
	at, err := pickEpoch(epoch, archive, t)
	if err != nil {
		return nil, err
	}
	config := v1.ConfigFile{
		Created: v1.Time{Time: at}, OS: "linux", Architecture: s.Arch,
		Config: v1.Config{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
			Cmd: []string{"/bin/sh"},
		},
	}
	if t.get("/usr/bin/bash") != nil {
		config.Config.Cmd = []string{"/bin/bash"}
	}
	if err := t.composeContainer(s); err != nil {
		return nil, err
	}
	if t.get("/etc/shadow") != nil { // a root without the package passwd has none
		a, err := t.readAccounts()
		if err != nil {
			return nil, err
		}
		a.lock(at)
		a.store(t)
	}
	t.clamp(at)
	if err := t.checkWhole(); err != nil {
		return nil, err
	}
	layer, err := t.layer(cache)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	return oci.New(config, layer)
}

// composeContainer turns a root of packages into that of a container.
func (t *tree) composeContainer(s *imagespec.ContainerSpec) error {
	status, err := t.read(dpkgDir + "/status")
	if err != nil {
		return err
	}
	gone, err := t.removePackages(removable, false)
	if err != nil {
		return err
	}
	more, err := t.removePackages(s.Remove.Packages, true)
	if err != nil {
		return err
	}
	t.normalise()
	// Nobody installs anything here, but what is in it should be known to who looks.
	t.remove(dpkgDir)
	t.write(dpkgDir+"/status", 0o644, []byte(filterStatus(string(status), append(gone, more...))))
	if err := t.addFiles(s.Files, s.SourcePath); err != nil {
		return err
	}
	t.removePaths(s.Remove.Paths)
	return nil
}

// layer writes the tree as the archive of a layer into the cache.
func (t *tree) layer(cache string) (oci.PlainLayer, error) {
	dir, err := os.MkdirTemp(cache, "layer.new-")
	if err != nil {
		return oci.PlainLayer{}, err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "layer")
	h := sha256.New()
	size := count(0)
	if err := writeFile(tmp, func(w io.Writer) error { return t.writeTar(io.MultiWriter(w, h, &size)) }); err != nil {
		return oci.PlainLayer{}, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
	path := filepath.Join(cache, "layer-"+digest.Hex)
	if err := os.Rename(tmp, path); err != nil {
		return oci.PlainLayer{}, err
	}
	return oci.PlainLayer{Digest: digest, Size: int64(size), Open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// count counts what is written to it.
type count int64

func (c *count) Write(p []byte) (int, error) {
	*c += count(len(p))
	return len(p), nil
}
