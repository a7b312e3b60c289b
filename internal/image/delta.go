package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/sbom"
)

// whiteout begins the name of a file of a layer that says: this is no more.
const whiteout = ".wh."

// delta makes the image of a description with a base: what differs from that of the base.
func (m *maker) delta(ctx context.Context, s *imagespec.ContainerSpec) (v1.Image, error) {
	base, err := m.root(ctx, s.BaseSpec, nil)
	if err != nil {
		return nil, fmt.Errorf("make base %s: %w", s.BaseSpec.Name, err)
	}
	defer base.archive.Close()
	on, err := m.image(base, base.tree, s.BaseSpec, nil)
	if err != nil {
		return nil, fmt.Errorf("make base %s: %w", s.BaseSpec.Name, err)
	}
	id, err := on.ConfigName()
	if err != nil {
		return nil, fmt.Errorf("make base %s: %w", s.BaseSpec.Name, err)
	}
	r, err := m.root(ctx, s, base)
	if err != nil {
		return nil, err
	}
	defer r.archive.Close()
	changed, err := changedPackages(base.status, r.status)
	if err != nil {
		return nil, err
	}
	if len(changed) > 0 {
		m.progress.Note("%s was made of other versions of %s, and the delta has theirs; --refresh fetches both again", s.BaseSpec.Name, strings.Join(changed, ", "))
	}
	d, err := r.minus(base.tree)
	if err != nil {
		return nil, fmt.Errorf("compare with base %s: %w", s.BaseSpec.Name, err)
	}
	// A launcher looks for it in each layer.
	d.put(imagespec.RemovedFile, r.get(imagespec.RemovedFile))
	d.clamp(r.at)
	return m.image(r, d, s, []string{LabelBase + "=" + s.BaseSpec.Name, LabelBaseDigest + "=" + id.String()})
}

// changedPackages returns which packages of a base have another version in a later root.
func changedPackages(base, later string) ([]string, error) {
	before, err1 := sbom.Parse(base)
	after, err2 := sbom.Parse(later)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, p := range after {
		versions[p.Name] = p.Version
	}
	var changed []string
	for _, p := range before {
		if v, there := versions[p.Name]; there && v != p.Version {
			changed = append(changed, p.Name)
		}
	}
	return changed, nil
}

// minus returns the layer that makes t of base: what is new or differs, the folders above
// it, and a whiteout for what is no more. Times do not count. Hard links are names of one
// file: where the names differ, all of them are in the layer.
func (t *tree) minus(base *tree) (*tree, error) {
	d := newTree()
	d.nodes["/"] = t.nodes["/"]
	above := func(p string) {
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			d.nodes[dir] = t.nodes[dir]
		}
	}
	names, baseNames := t.linkNames(), base.linkNames()
	for _, p := range t.names() {
		if strings.HasPrefix(path.Base(p), whiteout) {
			return nil, fmt.Errorf("put %s into a layer: this name means that a file is no more", p)
		}
		n, old := t.nodes[p], base.nodes[p]
		if old != nil && slices.Equal(names[p], baseNames[p]) {
			equal, err := n.equal(old)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", p, err)
			}
			if equal {
				continue
			}
		}
		above(p)
		d.nodes[p] = n
	}
	for _, p := range base.names() {
		dir := t.nodes[path.Dir(p)]
		// Below a folder that is no more there is nothing to say.
		if t.nodes[p] != nil || dir == nil || dir.typ != tar.TypeDir {
			continue
		}
		above(p)
		d.nodes[path.Join(path.Dir(p), whiteout+path.Base(p))] = &node{typ: tar.TypeReg}
	}
	return d, nil
}

// linkNames returns all names of each regular file that has several, sorted, under each.
func (t *tree) linkNames() map[string][]string {
	files := map[*node][]string{}
	for _, p := range t.names() {
		if n := t.nodes[p]; n.typ == tar.TypeReg {
			files[n.holder()] = append(files[n.holder()], p)
		}
	}
	all := map[string][]string{}
	for _, names := range files {
		if len(names) > 1 {
			for _, p := range names {
				all[p] = names
			}
		}
	}
	return all
}

// equal reports whether two files are the same but for their times.
func (n *node) equal(o *node) (bool, error) {
	if n.typ != o.typ || n.mode != o.mode || n.uid != o.uid || n.gid != o.gid || n.link != o.link ||
		n.major != o.major || n.minor != o.minor || n.size != o.size || !maps.Equal(n.xattrs, o.xattrs) {
		return false, nil
	}
	a, b := n.content(), o.content()
	var bufA, bufB [32 << 10]byte
	for left := n.size; left > 0; {
		step := min(left, int64(len(bufA)))
		if _, err := io.ReadFull(a, bufA[:step]); err != nil {
			return false, err
		}
		if _, err := io.ReadFull(b, bufB[:step]); err != nil {
			return false, err
		}
		if !bytes.Equal(bufA[:step], bufB[:step]) {
			return false, nil
		}
		left -= step
	}
	return true, nil
}
