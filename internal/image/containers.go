package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/oci"
	osfiles "github.com/OSInside/eos/os"
)

// shortNames are the packages' folder of short names, which lead to public registries.
const shortNames = "/etc/containers/registries.conf.d"

func hasPodman(s *imagespec.Spec) bool { return slices.Contains(s.Packages, "podman") }

// layPodman lays our settings of podman over those of its packages.
func (t *tree) layPodman() error {
	t.remove(shortNames)
	return t.lay(osfiles.Podman())
}

// addContainers puts the container images of the description into the root, as a store of
// podman's. An image with podman has a store without them too: podman is told where it is.
func (b *build) addContainers(ctx context.Context, t *tree) error {
	if !hasPodman(b.Spec) {
		return nil
	}
	b.maker = maker{cache: b.CacheDir, epoch: b.Epoch, refresh: b.Refresh, progress: b.Progress}
	images, err := b.addFleet(t)
	if err != nil {
		return err
	}
	for _, c := range b.Spec.Containers {
		img, err := b.container(ctx, c)
		if err != nil {
			return cli.Refuse(cli.Failure, fmt.Errorf("add container image %s: %w", c.Name, err), containerHint(c))
		}
		images = append(images, imagestore.Image{Names: append([]string{c.Name}, c.Aliases...), Image: img})
	}
	for _, i := range images {
		id, err1 := i.Image.ConfigName()
		digest, err2 := i.Image.Digest()
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("add container image %s: %w", i.Names[0], err)
		}
		b.containers = append(b.containers, ReportContainer{Names: i.Names, ID: id.Hex, Digest: digest.String()})
	}
	b.layers, err = imagestore.Write(storeTree{t}, b.CacheDir, images)
	return err
}

// ReportContainer is a container image in the build manifest.
type ReportContainer struct {
	Names  []string `json:"names"`
	ID     string   `json:"id"`
	Digest string   `json:"digest"`
}

// containerHint says what to look at when a container image cannot be had.
func containerHint(c imagespec.Container) string {
	switch {
	case c.Image != "":
		return "credentials are taken from where podman login or docker login put them"
	case c.Archive != "":
		return "podman save --format oci-archive makes such an archive"
	}
	return ""
}

// container returns the image of an element of containers.
func (b *build) container(ctx context.Context, c imagespec.Container) (v1.Image, error) {
	switch s := b.Spec; {
	case c.Archive != "":
		return oci.OpenArchive(s.ContainerPath(c), s.Arch)
	case c.Folder != "":
		return oci.OpenFolder(s.ContainerPath(c), s.Arch)
	case c.Image != "":
		source, err := imagename.Pinned(c.Image)
		if err != nil {
			return nil, err
		}
		return oci.Pull(ctx, source, s.Arch, b.CacheDir)
	}
	return b.maker.container(ctx, c.Spec)
}

// storeTree takes a store into a root.
type storeTree struct{ t *tree }

// Put adds a file of the store.
func (s storeTree) Put(p string, f imagestore.File) error {
	n := &node{
		typ: f.Type, mode: f.Mode, uid: f.UID, gid: f.GID, link: f.Link, major: f.Major, minor: f.Minor,
		mtime: f.ModTime, keep: !f.ModTime.IsZero(),
	}
	switch f.Type {
	case tar.TypeLink:
		target := s.t.get(f.Link)
		if target == nil || target.typ != tar.TypeReg {
			return fmt.Errorf("internal error: hard link to %s, which is not there", f.Link)
		}
		n = target.linked()
	case tar.TypeReg:
		n.src, n.off, n.size = f.Content.Outer()
	}
	if f.Type != tar.TypeLink {
		for k, v := range f.Xattrs {
			if n.xattrs == nil {
				n.xattrs = map[string]string{}
			}
			n.xattrs[xattrPrefix+k] = v
		}
	}
	s.t.put(p, n)
	return nil
}

// xattrPrefix is before the names of extended attributes in an archive.
const xattrPrefix = "SCHILY.xattr."
