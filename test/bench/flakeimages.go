package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/OSInside/eos/internal/command"
)

// Containers that flakes are made of.
const (
	baseImage  = "localhost/bench/base"  // true, cat and sleep
	largeImage = "localhost/bench/large" // a layer of many files
	smallImage = "localhost/bench/small" // a layer of few
	largeFiles = 2000
	smallFiles = 20
	fileSize   = 5000 // of a file in a layer
)

// images has podman take the containers.
func (h *flakeHost) images(ctx context.Context) error {
	app := filepath.Join(h.job.Dir, "app")
	if err := command.Run(ctx, command.Cmd{
		Argv: []string{"go", "build", "-trimpath", "-ldflags", "-s -w", "-o", app, "./test/bench/testdata/app"}, Env: []string{"CGO_ENABLED=0"},
	}); err != nil {
		return err
	}
	program, err := os.ReadFile(app)
	if err != nil {
		return err
	}
	base := &layerTar{}
	base.file("bin/app", 0o755, program)
	for _, name := range []string{"true", "cat", "sleep"} {
		base.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "app", Mode: 0o777}, nil)
	}
	content := rand.NewChaCha8([32]byte{})
	layer := func(files int) *layerTar {
		a, data := &layerTar{}, make([]byte, fileSize)
		for i := range files {
			_, _ = content.Read(data) // never fails
			a.file(fmt.Sprintf("usr/share/bench/%02d/%04d", i/100, i), 0o644, data)
		}
		return a
	}
	for _, x := range []struct {
		name string
		a    *layerTar
	}{{baseImage, base}, {largeImage, layer(largeFiles)}, {smallImage, layer(smallFiles)}} {
		file := filepath.Join(h.job.Dir, "image.tar")
		if err := x.a.save(file); err != nil {
			return err
		}
		if err := h.run(ctx, podman, "import", "--quiet", file, x.name); err != nil {
			return err
		}
	}
	return nil
}

// layerTar is an archive, in memory. The first error stays.
type layerTar struct {
	b   bytes.Buffer
	w   *tar.Writer
	err error
}

func (a *layerTar) add(h *tar.Header, data []byte) {
	if a.w == nil {
		a.w = tar.NewWriter(&a.b)
	}
	h.Size, h.ModTime = int64(len(data)), time.Unix(1_700_000_000, 0)
	err := a.w.WriteHeader(h)
	if err == nil {
		_, err = a.w.Write(data)
	}
	a.err = errors.Join(a.err, err)
}

func (a *layerTar) file(name string, mode int64, data []byte) {
	a.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, data)
}

func (a *layerTar) save(file string) error {
	if err := errors.Join(a.err, a.w.Close()); err != nil {
		return err
	}
	return os.WriteFile(file, a.b.Bytes(), 0o600)
}
