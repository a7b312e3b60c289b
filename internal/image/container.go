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
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/oci"
)

// Labels of a delta.
const (
	LabelBase       = imagespec.OwnLabel + "base"        // name of the base
	LabelBaseDigest = imagespec.OwnLabel + "base.digest" // image id of the base it was made against
)

// A maker makes the images of container descriptions.
type maker struct {
	cache    string
	epoch    int64
	refresh  bool
	progress Progress

	fresh map[string]bool // bootstraps that were refreshed already, by key
}

// container makes the image of a description: one layer, a file in the cache.
func (m *maker) container(ctx context.Context, s *imagespec.ContainerSpec) (v1.Image, error) {
	if s.BaseSpec != nil {
		return m.delta(ctx, s)
	}
	r, err := m.root(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	defer r.archive.Close()
	return m.image(r, r.tree, s, nil)
}

// image makes the image of a description from its root and its layer.
func (m *maker) image(r *containerRoot, t *tree, s *imagespec.ContainerSpec, labels []string) (v1.Image, error) {
	layer, err := t.layer(m.cache)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	shell := "/bin/sh"
	if r.get("/usr/bin/bash") != nil {
		shell = "/bin/bash"
	}
	config := containerConfig(s, shell, labels)
	config.Created = v1.Time{Time: r.at}
	return oci.New(config, layer)
}

// A containerRoot is the composed root of a container.
type containerRoot struct {
	*tree
	archive *os.File  // its content is there
	at      time.Time // of everything in it
	status  string    // dpkg's, of all packages it was made of
}

// root composes the root of a description, on that of a base if there is one: the packages
// of both, and what the two say one after the other.
func (m *maker) root(ctx context.Context, s *imagespec.ContainerSpec, base *containerRoot) (*containerRoot, error) {
	specs := []*imagespec.ContainerSpec{s}
	if base != nil {
		specs = []*imagespec.ContainerSpec{s.BaseSpec, s}
	}
	b := bootstrap{
		Suite: s.Debian.Suite, Arch: s.Arch, Mirror: s.Debian.Mirror,
		Packages: union(specs, func(s *imagespec.ContainerSpec) []string { return s.Packages }),
	}
	archive, err := fetchRoot(ctx, m.cache, b, m.refresh && !m.fresh[b.key()])
	if err != nil {
		return nil, err
	}
	if m.fresh == nil {
		m.fresh = map[string]bool{}
	}
	m.fresh[b.key()] = true
	f, err := os.Open(archive.Path)
	if err != nil {
		return nil, fmt.Errorf("read root archive: %w", err)
	}
	r := &containerRoot{archive: f}
	if r.tree, err = readTree(f); err == nil {
		r.at, err = pickEpoch(m.epoch, archive, r.tree)
	}
	if err == nil {
		err = r.compose(specs, base)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// compose turns a root of packages into that of a container.
func (r *containerRoot) compose(specs []*imagespec.ContainerSpec, base *containerRoot) error {
	t := r.tree
	status, err := t.read(dpkgDir + "/status")
	if err != nil {
		return err
	}
	r.status = string(status)
	if err := t.composeContainer(specs, r.status); err != nil {
		return err
	}
	if t.get("/etc/shadow") != nil { // a root without the package passwd has none
		a, err := t.readAccounts()
		if err != nil {
			return err
		}
		day := r.at
		if base != nil {
			day = base.at // the same accounts have the same file
		}
		a.lock(day)
		a.store(t)
	}
	t.leaveToHost(union(specs, func(s *imagespec.ContainerSpec) []string { return s.Host }), base != nil)
	t.clamp(r.at)
	return t.checkWhole()
}

// composeContainer takes out and adds what descriptions say, the later one last.
func (t *tree) composeContainer(specs []*imagespec.ContainerSpec, status string) error {
	gone, err := t.removePackages(removable, false)
	if err != nil {
		return err
	}
	last := specs[len(specs)-1]
	more, err := t.removePackages(union(specs, func(s *imagespec.ContainerSpec) []string {
		return slices.DeleteFunc(slices.Clone(s.Remove.Packages), func(p string) bool {
			return s != last && slices.Contains(last.Packages, p) // what a base takes out, an application may ask for
		})
	}), true)
	if err != nil {
		return err
	}
	t.normalise()
	// Nobody installs anything here, but what is in it should be known to who looks.
	t.remove(dpkgDir)
	t.write(dpkgDir+"/status", 0o644, []byte(filterStatus(status, append(gone, more...))))
	for _, s := range specs {
		if err := t.addFiles(s.Files, s.SourcePath); err != nil {
			return err
		}
	}
	t.removePaths(union(specs, func(s *imagespec.ContainerSpec) []string { return s.Remove.Paths }))
	return nil
}

// union returns what descriptions list, sorted.
func union(specs []*imagespec.ContainerSpec, of func(*imagespec.ContainerSpec) []string) []string {
	var all []string
	for _, s := range specs {
		all = append(all, of(s)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// leaveToHost takes out what comes from the host, and lists it. A path without wildcards is
// listed though nothing of it is in the packages.
func (t *tree) leaveToHost(patterns []string, always bool) {
	if len(patterns) == 0 && !always {
		return
	}
	var list []string
	for _, pattern := range patterns {
		if !strings.ContainsAny(pattern, `*?[\`) {
			list = append(list, pattern)
		}
		for _, p := range t.names() {
			if imagespec.Match(pattern, p) {
				list = append(append(list, p), t.below(p)...)
				t.remove(p)
			}
		}
	}
	slices.Sort(list)
	var text strings.Builder
	for _, p := range slices.Compact(list) {
		text.WriteString(p + "\n")
	}
	t.write(imagespec.RemovedFile, 0o644, []byte(text.String()))
}

// containerConfig is the configuration of an image without its layers.
func containerConfig(s *imagespec.ContainerSpec, shell string, labels []string) v1.ConfigFile {
	c := v1.Config{
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Entrypoint: s.Entrypoint, Cmd: s.Cmd, User: s.User, WorkingDir: s.Workdir,
	}
	for _, pair := range s.Env {
		name, _, _ := strings.Cut(pair, "=")
		c.Env = append(slices.DeleteFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") }), pair)
	}
	for _, pair := range slices.Concat(s.Labels, labels) {
		name, value, _ := strings.Cut(pair, "=")
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[name] = value
	}
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		c.Cmd = []string{shell}
	}
	return v1.ConfigFile{OS: "linux", Architecture: s.Arch, Config: c}
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
