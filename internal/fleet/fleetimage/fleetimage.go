// Package fleetimage makes what an OS image has of the flake fleet: the container image, of
// one static program and, if there is one, the key that all devices share, and the
// registration by which the command starts it.
//
// [Image] and [Registration] are functions of their arguments: the same give the same bytes.
// The container has nothing else in it, no shell, no library and no other program that
// somebody who got into it could use.
package fleetimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/fleet"
	"github.com/OSInside/eos/internal/registrystate"
)

// Names of the flake.
const (
	Flake   = "fleet"                  // the command's
	Name    = "localhost/fleet:latest" // the container image's
	Program = "/fleet"                 // in the container
)

// Image makes the container image. key may be nil.
func Image(arch string, program []byte, key *fleet.Key) (v1.Image, error) {
	text, err := content(program, key)
	if err != nil {
		return nil, fmt.Errorf("make container image %s: %w", Flake, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make container image %s: %w", Flake, err)
	}
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err = mutate.AppendLayers(img, layer)
	if err != nil {
		return nil, fmt.Errorf("make container image %s: %w", Flake, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make container image %s: %w", Flake, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config = v1.Config{Entrypoint: []string{Program}}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("make container image %s: %w", Flake, err)
	}
	return img, nil
}

// content is the layer: an archive with fixed times, its folders before what is in them.
func content(program []byte, key *fleet.Key) ([]byte, error) {
	type file struct {
		name string
		mode int64
		data []byte
	}
	files := []file{{Program, 0o755, program}}
	if key != nil {
		files = append(files, file{fleet.SharedFile, 0o400, key.Private()})
	}
	made := map[string]bool{"/": true}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var dir func(name string) error
	dir = func(name string) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if err := dir(path.Dir(name)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(name, "/") + "/", Mode: 0o755, Format: tar.FormatPAX})
	}
	for _, f := range files {
		if err := dir(path.Dir(f.name)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.name, "/"), Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatPAX,
		}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Authorities is the file by which the container knows https servers, if the image has it.
const Authorities = "/etc/ssl/certs/ca-certificates.crt"

// Registration returns the text of fleet.yaml. authorities says that the image has
// [Authorities].
//
// Of the host the container has /run, where it puts the key, and the folder of the device's
// own key, nothing else that it could write to. It is read-only and has no capability: root
// in it owns the files it writes, and that is enough. The network is the host's, which needs
// no setting up and is what --send is for. It stays in the control group of whoever calls, so
// it ends with that, and asks nothing of systemd.
func Registration(authorities bool) ([]byte, error) {
	volumes := []string{
		"/run:/run",
		path.Dir(registrystate.File) + ":" + path.Dir(registrystate.File) + ":ro",
		fleet.StateDir + ":" + fleet.StateDir,
		"/etc/machine-id:/etc/machine-id:ro",
		"/usr/lib/os-release:/etc/os-release:ro",
		"/usr/share/eos/build.json:/usr/share/eos/build.json:ro",
	}
	if authorities {
		volumes = append(volumes, Authorities+":"+Authorities+":ro")
	}
	options := []string{"--read-only", "--cgroups disabled", "--network host", "--cap-drop all", "--security-opt no-new-privileges"}
	for _, v := range volumes {
		options = append(options, "--volume "+v)
	}
	text, err := flake.Marshal(&flake.Registration{Name: Flake, Container: flake.Container{
		Name: strings.TrimSuffix(Name, ":latest"), Target: Program, Host: "/usr/bin/" + Flake,
		Runtime: flake.Runtime{RunAs: "root", Podman: options},
	}})
	return append([]byte("# Made by the build: the key by which this device fetches updates. See fleet(8).\n"), text...), err
}
