package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

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
	OutDir   string   // of BuildContainer; made if it is missing
	CacheDir string   // empty: that of the tools tree
	Refresh  bool     // fetch packages again
	Epoch    int64    // seconds; 0: SOURCE_DATE_EPOCH, else from the packages
	Progress Progress // may be nil
}

// Container makes the image of a container description. Its layers are files of the cache,
// which the next call may remove when they are old. The same inputs give the same image.
func Container(ctx context.Context, o ContainerOptions) (v1.Image, error) {
	if o.Progress == nil {
		o.Progress = cli.NoProgress()
	}
	cache := o.CacheDir
	if cache == "" {
		var err error
		if cache, err = toolstree.CacheDir(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("prepare build: %w", err)
	}
	o.Progress.Stage("container", 0)
	defer o.Progress.Done()
	m := maker{cache: cache, epoch: o.Epoch, refresh: o.Refresh, progress: o.Progress}
	img, err := m.container(ctx, o.Spec)
	if err != nil {
		return nil, err
	}
	prune(cache)
	return img, nil
}

// BuildContainer builds a container on its own, as the archive NAME.oci.tar that podman
// loads. The same inputs give the same bytes.
func BuildContainer(ctx context.Context, o ContainerOptions) (Output, error) {
	img, err := Container(ctx, o)
	if err != nil {
		return Output{}, err
	}
	name, err := imagename.Local(o.Spec.Name)
	if err != nil {
		return Output{}, err
	}
	return WriteOutput("oci", filepath.Join(o.OutDir, o.Spec.Name+".oci.tar"), func(w io.Writer) error {
		return oci.WriteArchive(w, img, name)
	})
}

// WriteOutput writes a file that is built, in a folder that is made if it is missing. It
// has its name when it is whole.
func WriteOutput(kind, path string, write func(io.Writer) error) (Output, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Output{}, fmt.Errorf("make output folder: %w", err)
	}
	if err := writeFile(path, write); err != nil {
		return Output{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return Output{}, err
	}
	return Output{Kind: kind, Path: path, Size: fi.Size()}, nil
}
