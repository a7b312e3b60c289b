package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
)

func (a *app) remove() *cobra.Command {
	var command, image string
	var force bool
	c := &cobra.Command{
		Use: "remove", Short: "Take out a command, or a container and all its commands", Args: cobra.NoArgs,
		Long: "Takes out a flake: its command, its file, its service and what was put beside it, its containers, which\n" +
			"are stopped, and what was put together for it. With --container all flakes of a container, and then the\n" +
			"container itself, with everything that runs of it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if image != "" {
				return a.removeImage(cmd.Context(), image, force)
			}
			return a.removeApp(cmd.Context(), command, force)
		},
	}
	c.Flags().StringVar(&command, "app", "", "`path` of the command, absolute")
	c.Flags().StringVar(&image, "container", "", "`name` of the container")
	c.Flags().BoolVar(&force, "force", false, "also one that is not whole, or that others stand on; never any other file")
	c.MarkFlagsOneRequired("app", "container")
	c.MarkFlagsMutuallyExclusive("app", "container")
	_ = c.RegisterFlagCompletionFunc("app", a.complete(func(e flake.Entry) string { return e.Host }))
	_ = c.RegisterFlagCompletionFunc("container", a.complete(func(e flake.Entry) string { return e.Image }))
	return c
}

// complete offers something of all flakes that can be removed.
func (a *app) complete(what func(flake.Entry) string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		var out []string
		if w, err := a.where(a.user); err == nil {
			all, _ := flake.List(w.dir, "")
			for _, e := range all {
				if s := what(e); s != "" && strings.HasPrefix(s, begun) {
					out = append(out, s)
				}
			}
		}
		slices.Sort(out)
		return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) removeApp(ctx context.Context, command string, force bool) error {
	if err := registration.CheckApp(command); err != nil {
		return err
	}
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, w)
	if err != nil {
		return err
	}
	name := path.Base(command)
	err = errors.Join(a.removeFlake(w, s, name, command, force), a.link(ctx, w), s.Close())
	if errors.Is(err, registration.ErrNotRegistered) && w.shipped != "" && w.shipped != w.dir {
		if _, missing := os.Stat(filepath.Join(w.shipped, name+".yaml")); missing == nil {
			return cli.Refuse(cli.Refused, fmt.Errorf("remove flake %s: it is part of the image", name), "leave it out of the image description")
		}
	}
	return err
}

func (a *app) removeFlake(w where, s *registration.Store, name, command string, force bool) error {
	kept, err := s.Remove(name, command, a.assembled(w, name), force)
	for _, path := range kept {
		a.note("%s is no flake and stays", path)
	}
	return err
}

// removeImage takes out all flakes of a container, and it. If one of them stays, so does it.
func (a *app) removeImage(ctx context.Context, image string, force bool) error {
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	all, err := flake.List(w.dir, "")
	if err != nil {
		return err
	}
	if on := standOn(all, image); len(on) > 0 && !force {
		return cli.Refuse(cli.Refused, fmt.Errorf("remove container %s: flakes stand on it: %s", image, strings.Join(on, ", ")), "--force removes it all the same")
	}
	s, err := a.open(ctx, w)
	if err != nil {
		return err
	}
	var problems []error
	done := 0
	for _, e := range all {
		if e.Err != nil {
			a.note("%v", e.Err) // it may be one of this container
			continue
		}
		if e.Image == image && e.Engine == flake.EnginePodman {
			problems = append(problems, a.removeFlake(w, s, e.Name, "", force))
			done++
		}
	}
	if err := errors.Join(append(problems, a.link(ctx, w), s.Close())...); err != nil {
		return err
	}
	err = command.Run(ctx, a.podman(w, "image", "exists", image))
	var failed *command.Error
	switch {
	case errors.As(err, &failed) && failed.Status == 1 && done > 0:
		return nil
	case errors.As(err, &failed) && failed.Status == 1:
		return cli.Refuse(cli.Nothing, fmt.Errorf("remove container %s: there is none, and no flake of it", image), "flake-ctl list shows flakes, podman images shows containers")
	case err != nil:
		return fmt.Errorf("look for container %s: %w", image, err)
	}
	c := a.podman(w, "image", "rm", "--force", image)
	if err := command.Run(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", image, err)
	}
	return nil
}

// standOn are the flakes that have the container below them.
func standOn(all []flake.Entry, image string) []string {
	var out []string
	for _, e := range all {
		if e.Image != image && slices.Contains(e.Parts, image) {
			out = append(out, e.Name)
		}
	}
	return out
}
