package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) boot() *cobra.Command {
	return &cobra.Command{
		Use: "boot", Short: "Do what has to be done when the system starts", Args: cobra.NoArgs,
		Long: `Ends registrations that were cut off and starts the services among the flakes: units in the
registry, which systemd does not know before this. It may be called again at any time.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runBoot(cmd.Context()) },
	}
}

// runBoot is called by flakes-boot.service. What goes wrong with one thing keeps it from no other.
func (a *app) runBoot(ctx context.Context) error {
	w, err := a.where(false)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, w)
	if err != nil {
		return err
	}
	names, err := a.at.system.Link(ctx, w.dir)
	if err := errors.Join(err, s.Close()); err != nil {
		return errors.Join(err, a.at.system.Start(ctx, names))
	}
	return a.at.system.Start(ctx, names)
}

// link has systemd know the units of w, and no others of flakes.
func (a *app) link(ctx context.Context, w where) error {
	_, err := a.at.system.Link(ctx, w.dir)
	return err
}
