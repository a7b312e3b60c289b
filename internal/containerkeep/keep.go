package containerkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake/assemble"
)

// StoreDir is where the slot has its images.
const StoreDir = "/usr/lib/eos/containers"

// Options says which stores there are. The zero value is the device.
type Options struct {
	Store  string            // of the slot; empty: [StoreDir]
	Podman []string          // the program; empty: podman
	Conf   string            // storage.conf of both stores; empty: the system's
	Note   func(line string) // is told what is copied, and what was lost before; may be nil
}

// Keep copies what the writable store needs of the slot's, and returns the plan it followed.
func Keep(ctx context.Context, o Options) (Plan, error) {
	if o.Store == "" {
		o.Store = StoreDir
	}
	if len(o.Podman) == 0 {
		o.Podman = []string{"podman"}
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	plan, err := o.keep(ctx)
	if err != nil {
		return plan, fmt.Errorf("keep images that containers stand on: %w", err)
	}
	return plan, nil
}

func (o *Options) keep(ctx context.Context) (Plan, error) {
	var images []Image
	var slot, writable []Layer
	if err := assemble.ReadTable(filepath.Join(o.Store, "overlay-images/images.json"), &images); err != nil || len(images) == 0 {
		return Plan{}, err
	}
	if err := assemble.ReadTable(filepath.Join(o.Store, "overlay-layers/layers.json"), &slot); err != nil {
		return Plan{}, err
	}
	graph, run, err := o.roots(ctx)
	if err != nil {
		return Plan{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(graph, &st); err != nil {
		return Plan{}, fmt.Errorf("look at %s: %w", graph, err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		return Plan{}, nil // there is no registry: nothing in the store outlives the system
	}
	if err := o.dropAssembled(ctx, graph); err != nil {
		return Plan{}, err
	}
	layers := filepath.Join(graph, "overlay-layers/layers.json")
	if err := assemble.ReadTable(layers, &writable); err != nil {
		return Plan{}, err
	}
	plan := MakePlan(writable, slot, images)
	for _, id := range plan.Lost {
		o.Note("layer " + id + " is in no store: what stands on it cannot be started")
	}
	if plan.Empty() {
		return plan, nil
	}
	if len(plan.Images) > 0 {
		if err := o.copyImages(ctx, graph, run, plan.Images); err != nil {
			return plan, err
		}
		if err := assemble.ReadTable(layers, &writable); err != nil {
			return plan, err
		}
	}
	for _, id := range plan.Layers {
		if !slices.ContainsFunc(writable, func(l Layer) bool { return l.ID == id }) {
			return plan, fmt.Errorf("podman did not copy layer %s", id)
		}
		if err := o.link(graph, id); err != nil {
			return plan, err
		}
	}
	return plan, assemble.Store{graph}.Sync()
}

// dropAssembled removes the images that flakes are run from and that are put together again
// at the next launch, on the base of the system that runs then. One that a container stands on
// stays: podman does not remove it.
func (o *Options) dropAssembled(ctx context.Context, graph string) error {
	var images []Image
	if err := assemble.ReadTable(filepath.Join(graph, "overlay-images/images.json"), &images); err != nil {
		return err
	}
	for _, i := range images {
		for _, name := range i.Names {
			if !strings.HasPrefix(name, assemble.Names) {
				continue
			}
			var failed *command.Error
			if err := command.Run(ctx, o.podman(o.Conf, "image", "rm", name)); err != nil && !errors.As(err, &failed) {
				return err
			}
		}
	}
	return nil
}

// roots asks podman where the writable store is.
func (o *Options) roots(ctx context.Context) (graph, run string, err error) {
	out, err := command.Output(ctx, o.podman(o.Conf, "info", "--format", "{{.Store.GraphRoot}}\n{{.Store.RunRoot}}"))
	if err != nil {
		return "", "", err
	}
	graph, run, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	if !filepath.IsAbs(graph) || !filepath.IsAbs(run) {
		return "", "", fmt.Errorf("ask podman for its store: it says %.100q", out)
	}
	return graph, run, nil
}

func (o *Options) podman(conf string, args ...string) command.Cmd {
	c := command.Cmd{Argv: slices.Concat(o.Podman, args)}
	if conf != "" {
		c.Env = []string{"CONTAINERS_STORAGE_CONF=" + conf}
	}
	return c
}

// copyImages copies images from the slot's store to the writable one. podman does so when
// it does not see the slot's.
func (o *Options) copyImages(ctx context.Context, graph, run string, ids []string) error {
	dir := filepath.Join(graph, "tmp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// What a run left that was cut.
	left, err := filepath.Glob(filepath.Join(dir, "keep-*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	dir, err = os.MkdirTemp(dir, "keep-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", graph, run)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	for _, id := range ids {
		o.Note("copying container image " + id + " to the registry: containers stand on it")
		image := filepath.Join(dir, "image")
		if err := command.Run(ctx, o.podman(o.Conf, "save", "--quiet", "--format", "oci-archive", "--output", image, id)); err != nil {
			return err
		}
		if err := command.Run(ctx, o.podman(conf, "load", "--quiet", "--input", image)); err != nil {
			return err
		}
		if err := os.Remove(image); err != nil {
			return err
		}
	}
	return nil
}

var linkText = regexp.MustCompile(`^[0-9A-Z]{26}$`)

// link makes the short name by which others know a layer of the slot lead to its copy. The
// copy has got another one of its own.
func (o *Options) link(graph, id string) error {
	text, err := os.ReadFile(filepath.Join(o.Store, "overlay", id, "link"))
	if err != nil {
		return err
	}
	if !linkText.Match(text) {
		return fmt.Errorf("layer %s has the short name %.40q", id, text)
	}
	name, target := filepath.Join(graph, "overlay/l", string(text)), "../"+id+"/diff"
	if have, err := os.Readlink(name); err == nil && have == target {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, name)
}
