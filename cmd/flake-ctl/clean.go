package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/sweep"
)

// cleaned is what clean has removed.
type cleaned struct {
	Containers []sweep.Container `json:"containers"`
	Folders    []string          `json:"folders"`
}

func (a *app) clean() *cobra.Command {
	var isUser, asJSON bool
	c := &cobra.Command{
		Use: "clean", Short: "Remove what flakes left that were cut off", Args: cobra.NoArgs,
		Long: `Removes the containers of flakes that have nobody any more, as after a power cut, and what is left of
containers and registrations that were being made. Containers that stay (--resume, --attach) do, and
so does what is not of flakes. Flakes may be started meanwhile. The system does this when it starts.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := a.runClean(cmd.Context(), isUser)
			if asJSON {
				return errors.Join(cli.PrintJSON(a.env.Stdout, done), coded(err))
			}
			for _, c := range done.Containers {
				fmt.Fprintf(a.env.Stdout, "removed container %s\n", c.Name)
			}
			for _, f := range done.Folders {
				fmt.Fprintf(a.env.Stdout, "removed folder %s\n", f)
			}
			return coded(err)
		},
	}
	c.Flags().BoolVar(&isUser, "user", false, "the caller's own flakes")
	c.Flags().BoolVar(&asJSON, "json", false, "print what was removed as JSON")
	return c
}

// runClean clears up in each store there is. One that cannot be keeps nobody from another.
func (a *app) runClean(ctx context.Context, isUser bool) (cleaned, error) {
	done := cleaned{Containers: []sweep.Container{}, Folders: []string{}}
	w, missing := a.where(isUser)
	problems := []error{missing}
	if missing == nil {
		s, err := a.open(ctx, w) // which ends registrations
		if err == nil {
			err = s.Close()
		}
		problems = append(problems, err)
	}
	for _, s := range a.stores(w, missing == nil) {
		containers, err := s.Leftovers(ctx)
		done.Containers, problems = append(done.Containers, containers...), append(problems, err)
		folders, err := s.Folders()
		done.Folders, problems = append(done.Folders, folders...), append(problems, err)
	}
	return done, errors.Join(problems...)
}

// stores are those in which flakes have containers: that in the registry, or a user's, if it
// can be used, and root's in memory.
func (a *app) stores(w where, usable bool) []sweep.Store {
	var all []sweep.Store
	if usable && !a.at.chroot {
		c := a.podman(w)
		all = append(all, sweep.Store{Podman: c.Argv, Env: c.Env, Root: a.storeRoot(w), Run: a.at.running, Young: a.at.young})
	}
	if _, err := os.Stat(a.at.memory); err == nil && w.shipped != "" {
		c := a.podman(w, flake.InMemory()...)
		all = append(all, sweep.Store{Podman: c.Argv, Root: a.at.memory, Run: a.at.running, Young: a.at.young})
	}
	return all
}

// storeRoot is podman's folder, where its settings say it.
func (a *app) storeRoot(w where) string {
	files := append([]string{w.storage, os.Getenv("CONTAINERS_STORAGE_CONF")}, a.at.storageConf...)
	return sweep.Root(files, a.at.uid != 0)
}
