// Package assemble puts the container of a flake together: a base, layers upon it, the
// application, and what of the host goes into it.
//
// [Ensure] is the one call of a launcher. It returns the name of an image in podman's store
// that is all of that. The name holds a sum over what the image is made of: the ids of the
// images, and the state of the files of the host. So an image that is there is right, and is
// found by reading two tables of the store; nothing is copied and no program is run. One that
// is not there is made once: podman is given a manifest that names the layers, which it has,
// and one layer of what comes from the host. The layers are stacked by overlayfs; what is in
// them (hard links, capabilities, attributes) is what it was.
//
// What images say about the host is not trusted. Lists (/removed) are read from the layers
// without following a link; what they name has to be in [Options.Allowed] and public. The
// script that prints such a list (/systemfiles) runs in a container without a network, without
// rights, as nobody, which has nothing but the allowed folders, read-only.
//
// Several may do this at once: a lock lets one make an image while the others wait for it. An
// image gets its name when all of it is on the disk. Cut anywhere, it leaves a folder below the
// store, and an image named like that, which the next run removes.
package assemble

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/lockfile"
)

// Options is this machine, for one user.
type Options struct {
	Store      Store
	Podman     []string // its command line, up to what it is to do
	Env        []string // of podman
	Dir        string   // a folder of the user's alone, gone after a restart
	Allowed    []string // what of the host images may have; folders
	IgnoreHost bool     // go on without what of the host cannot be had, and say so
	Note       func(format string, a ...any)
	Pull       func(ctx context.Context, name string) error // fetches an image
	// Guard has a container and a folder removed when this process is killed; what it returns
	// is called when they have gone. It may be nil.
	Guard    func(container, dir string) (gone func(), err error)
	Patience time.Duration // how long the script of an image may take; zero: [Patience]
}

// format is that of assembled images; a change of it makes all of them anew.
const format = "1"

// Names is where names of assembled images begin. A second part is a sum of what a flake
// names, and the tag is one of what that was.
const Names = "localhost/flake.assembled/"

// While an image is made, its folder has a name that begins with Unfinished, below the folder
// tmp of the store, and LockFile is locked in [Options.Dir].
const (
	Unfinished = "flake.unfinished-"
	LockFile   = "assemble.lock"
)

// Repository returns the name that all images which were assembled for a flake have before
// their tag.
func Repository(r *flake.Registration) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %t %q %q", images(r), r.Container.CheckHost, r.Include.Tar, r.Include.Path)
	return Names + hex.EncodeToString(h.Sum(nil))[:16]
}

// images are the names of those of a flake, the lowest first.
func images(r *flake.Registration) []string {
	if r.Container.Base == "" {
		return []string{r.Container.Name}
	}
	return slices.Concat([]string{r.Container.Base}, r.Container.Layers, []string{r.Container.Name})
}

// plan is an image that is to be.
type plan struct {
	name   string
	images []Image   // the lowest first
	chains [][]layer // of each, the highest layer first
	host   []hostFile
}

// Ensure returns the name of the image that the flake is run from.
func Ensure(ctx context.Context, r *flake.Registration, o Options) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("put together flake %s: %w", r.Name, err) }
	if !r.Assembled() {
		if _, err := o.find(ctx, []string{r.Container.Name}); err != nil {
			return fail(err)
		}
		return r.Container.Name, nil
	}
	p, err := o.plan(ctx, r)
	if err != nil {
		return fail(err)
	}
	if o.there(p.name) {
		return p.name, nil
	}
	l, err := lockfile.Take(filepath.Join(o.Dir, LockFile))
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	if o.there(p.name) {
		return p.name, nil
	}
	if err := o.make(ctx, r, p); err != nil {
		return fail(err)
	}
	return p.name, nil
}

// there tells whether there is an assembled image.
func (o *Options) there(name string) bool {
	all, err := o.Store.Images()
	return err == nil && slices.ContainsFunc(all, func(i Image) bool { return slices.Contains(i.Names, name) })
}

// find looks for images by their names, and fetches those that are missing.
func (o *Options) find(ctx context.Context, names []string) ([]Image, error) {
	all, err := o.Store.Images()
	if err != nil {
		return nil, err
	}
	var out []Image
	for _, name := range names {
		i, ok := Find(all, name)
		if !ok {
			if err := o.Pull(ctx, name); err != nil {
				return nil, err
			}
			if all, err = o.Store.Images(); err != nil {
				return nil, err
			}
			if i, ok = Find(all, name); !ok {
				return nil, fmt.Errorf("find container %s: podman fetched it, and it is not there", name)
			}
		}
		if slices.ContainsFunc(out, func(have Image) bool { return have.ID == i.ID }) {
			return nil, fmt.Errorf("container %s is there twice: what is stacked has to differ", name)
		}
		out = append(out, i)
	}
	return out, nil
}

// plan finds out what the image is made of, and so its name.
func (o *Options) plan(ctx context.Context, r *flake.Registration) (*plan, error) {
	p := &plan{}
	var err error
	if p.images, err = o.find(ctx, images(r)); err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintln(h, format, os.Geteuid())
	for _, i := range p.images {
		chain, err := o.Store.Chain(i)
		if err != nil {
			return nil, err
		}
		p.chains = append(p.chains, chain)
		fmt.Fprintln(h, i.ID)
	}
	lists, err := o.lists(ctx, p)
	if err != nil {
		return nil, err
	}
	if p.host, err = o.chooseHost(lists); err != nil {
		return nil, err
	}
	if len(p.host) > 0 || len(r.Include.Path) > 0 {
		// Files of another version of the system may differ in nothing that is looked at here.
		build, err := os.ReadFile("/usr/share/eos/build.json")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		fmt.Fprintf(h, "%q\n", build)
	}
	for _, f := range p.host {
		note(h, f.path, f.info)
	}
	for _, path := range slices.Concat(r.Include.Tar, r.Include.Path) {
		err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := os.Lstat(file)
			if err == nil && file == path && st.Mode()&fs.ModeSymlink != 0 && slices.Contains(r.Include.Tar, path) {
				st, err = os.Stat(file)
			}
			if err == nil {
				note(h, file, st)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("include %s: %w", path, err)
		}
	}
	p.name = Repository(r) + ":" + hex.EncodeToString(h.Sum(nil))[:40]
	return p, nil
}

// note adds the state of a file to a sum.
func note(h hash.Hash, path string, st fs.FileInfo) {
	sys := st.Sys().(*syscall.Stat_t)
	fmt.Fprintf(h, "%q %o %d %d.%d %d.%d %d %d %d\n", path, sys.Mode, sys.Size, sys.Mtim.Sec, sys.Mtim.Nsec, sys.Ctim.Sec, sys.Ctim.Nsec, sys.Ino, sys.Uid, sys.Gid)
}

// lists returns the files of the host that the images name.
func (o *Options) lists(ctx context.Context, p *plan) ([]string, error) {
	var out []string
	for n, chain := range p.chains {
		t, err := openTree(chain)
		if err != nil {
			return nil, err
		}
		defer t.close()
		if n == 0 {
			script, err := t.readList("systemfiles")
			if err == nil && script != nil {
				var some []string
				some, err = o.systemFiles(ctx, script)
				out = append(out, some...)
			}
			if err = o.tolerate(err); err != nil {
				return nil, fmt.Errorf("container %.12s: systemfiles: %w", p.images[n].ID, err)
			}
		}
		data, err := t.readList("removed")
		if err == nil {
			var some []string
			some, err = parseList(data)
			out = append(out, some...)
		}
		if err != nil {
			return nil, fmt.Errorf("container %.12s: removed: %w", p.images[n].ID, err)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (o *Options) tolerate(err error) error {
	if err != nil && o.IgnoreHost {
		o.Note("%v", err)
		return nil
	}
	return err
}

// chooseHost is choose, or as much of it as can be had.
func (o *Options) chooseHost(paths []string) ([]hostFile, error) {
	out, err := choose(paths, o.Allowed)
	if err == nil || !o.IgnoreHost {
		return out, err
	}
	out = nil
	for _, path := range paths {
		some, err := choose([]string{path}, o.Allowed)
		if err != nil {
			o.Note("left out: %v", err)
		}
		out = append(out, some...)
	}
	return out, nil
}

// stale returns the assembled images of the same flakes that are not needed any more, of all
// there are: the newest other one is kept, which somebody may have looked up just now.
func stale(all []Image, name string) []string {
	repo, _, _ := strings.Cut(strings.TrimPrefix(name, "localhost/"), ":")
	type old struct{ name, made string }
	var others []old
	for _, i := range all {
		for _, n := range i.Names {
			if strings.HasPrefix(n, "localhost/"+repo+":") && n != name {
				others = append(others, old{n, i.Made})
			}
		}
	}
	slices.SortFunc(others, func(a, b old) int { return strings.Compare(b.made, a.made) })
	var out []string
	for _, o := range others[min(1, len(others)):] {
		out = append(out, o.name)
	}
	return out
}
