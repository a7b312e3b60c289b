package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) boot() *cobra.Command {
	return &cobra.Command{
		Use: "boot", Short: "Do what has to be done when the system starts", Args: cobra.NoArgs,
		Long: `Clears up as clean does, and starts the services among the flakes: their units are in the registry,
where systemd does not look for any. It may be called again at any time.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runBoot(cmd.Context()) },
	}
}

// Services wait for podman to clear up, and the system waits for all of this before it is
// held to be healthy.
const (
	cleanTime = time.Minute
	bootTime  = 100 * time.Second
)

// runBoot is called by flakes-boot.service. What goes wrong with one thing keeps it from no other.
func (a *app) runBoot(ctx context.Context) error {
	ctx, cancelAll := context.WithTimeout(ctx, bootTime)
	defer cancelAll()
	w, err := a.where(false)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, cleanTime)
	done, err := a.runClean(bounded, false)
	cancel()
	if n := len(done.Containers) + len(done.Folders); n > 0 {
		a.note("removed %d containers and folders that were left", n)
	}
	problems := []error{err}
	// Registrations do not change meanwhile.
	s, err := a.open(ctx, w)
	if err != nil {
		return errors.Join(append(problems, err)...)
	}
	names, err := a.at.system.Link(ctx, w.dir)
	return errors.Join(append(problems, err, s.Close(), a.at.system.Start(ctx, names))...)
}

// link has systemd know the units of w, and no others of flakes.
func (a *app) link(ctx context.Context, w where) error {
	_, err := a.at.system.Link(ctx, w.dir)
	return err
}
