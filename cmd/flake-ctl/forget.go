package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/flake/sweep"
)

// assembled is where names of images begin that were put together for a flake; empty if none are.
func (a *app) assembled(w where, name string) string {
	r, err := flake.Find(w.dir, "", name)
	if err != nil || !r.Assembled() {
		return ""
	}
	return assemble.Repository(r)
}

// forget removes what there is of a flake that was taken out: its containers, and the images in repository, where that is set and no other flake has them.
func (a *app) forget(ctx context.Context, w where, name, repository string) error {
	var problems []error
	for _, s := range a.stores(where{dir: w.dir, storage: w.storage}, true) {
		_, err := s.OfFlake(ctx, name)
		problems = append(problems, err)
		if err == nil && repository != "" && !a.shared(w, repository) {
			problems = append(problems, a.removeAssembled(ctx, w, s, repository))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("it is taken out; remove what is left of it: %w", err)
	}
	return nil
}

// shared tells whether there is a flake whose images these are.
func (a *app) shared(w where, repository string) bool {
	all, _ := flake.List(w.dir, w.shipped) // one that cannot be read has none
	return slices.ContainsFunc(all, func(e flake.Entry) bool {
		r, err := flake.Find(w.dir, w.shipped, e.Name)
		return err == nil && r.Assembled() && assemble.Repository(r) == repository
	})
}

func (a *app) removeAssembled(ctx context.Context, w where, s sweep.Store, repository string) error {
	names, err := a.images(ctx, w, s, repository)
	if err != nil || len(names) == 0 {
		return err
	}
	if err := command.Run(ctx, a.podman(w, append([]string{"image", "rm"}, names...)...)); err != nil {
		return fmt.Errorf("remove images: %w", err)
	}
	return nil
}

// images are the names of those in a repository. The tables of a store say them without podman.
func (a *app) images(ctx context.Context, w where, s sweep.Store, repository string) ([]string, error) {
	var all []string
	if s.Root != "" {
		images, err := assemble.Store{s.Root}.Images()
		if err != nil {
			return nil, err
		}
		for _, i := range images {
			all = append(all, i.Names...)
		}
	} else {
		out, err := command.Output(ctx, a.podman(w, "image", "ls", "--filter", "reference="+repository, "--format", "{{.Repository}}:{{.Tag}}"))
		if err != nil {
			return nil, fmt.Errorf("look for images: %w", err)
		}
		all = strings.Fields(string(out))
	}
	all = slices.DeleteFunc(all, func(n string) bool { return !strings.HasPrefix(n, repository+":") })
	slices.Sort(all)
	return slices.Compact(all), nil
}

// stays says which containers are left of the flake that was registered before.
func (a *app) stays(ctx context.Context, w where, o registerOptions) {
	for _, s := range a.stores(where{dir: w.dir, storage: w.storage}, true) {
		found, err := s.Of(ctx, o.Name())
		if err != nil {
			a.note("%v", err)
		}
		for _, c := range found {
			switch {
			case !c.Stays:
			case o.Resume || o.Attach:
				a.note("container %s of the flake before stays, and is entered; %s %%remove starts afresh", c.Name, o.Name())
			default:
				a.note("container %s of the flake before stays, and is of no use any more; podman rm --force %[1]s removes it", c.Name)
			}
		}
	}
}
