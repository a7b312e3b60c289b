package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/flake/fetch"
)

func (a *app) pull() *cobra.Command {
	var uri string
	c := &cobra.Command{
		Use: "pull", Short: "Fetch a container from a registry", Args: cobra.NoArgs,
		Long: `Has podman fetch a container. Which registries it may ask, and whose signatures it wants, is
up to the settings of the image. A registry that does not answer is not waited for.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runPull(cmd.Context(), uri) },
	}
	c.Flags().StringVar(&uri, "uri", "", "`name` of the container with its registry")
	_ = c.MarkFlagRequired("uri")
	_ = c.RegisterFlagCompletionFunc("uri", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) runPull(ctx context.Context, uri string) error {
	if uri == "" || strings.HasPrefix(uri, "-") {
		return cli.Usagef("--uri: %q is not the name of a container", uri)
	}
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	c := a.podman(w, "pull", uri)
	c.Stdout = a.env.Stdout
	if err := fetch.Pull(ctx, fetch.Options{Name: uri, Command: c, Stderr: a.env.Stderr, Patience: a.at.patience}); err != nil {
		return fetched(err)
	}
	return a.settle(ctx, w)
}

// fetched gives the error its code.
func fetched(err error) error {
	switch {
	case errors.Is(err, fetch.ErrUnreachable):
		return cli.Refuse(cli.Unreachable, err, "is the network up, and the name of the registry right?")
	case errors.Is(err, fetch.ErrPolicy):
		return cli.Refuse(cli.Refused, err, "/etc/containers/policy.json says what may be fetched; it comes with the image description")
	}
	return err
}

// settle has what was fetched on the disk, and removes what it has replaced. Podman flushes its
// tables, not the files of layers: after a power cut there would be a container without them.
func (a *app) settle(ctx context.Context, w where) error {
	a.prune(ctx, w)
	if root := a.storeRoot(w); root != "" {
		if _, err := os.Stat(root); err == nil {
			return assemble.Store{root}.Sync()
		}
	}
	unix.Sync()
	return nil
}

// prune removes what the container was before, if it has no name any more.
func (a *app) prune(ctx context.Context, w where) {
	if err := command.Run(ctx, a.podman(w, "image", "prune", "--force")); err != nil {
		a.note("the container is there; remove what it replaced: %v", err)
	}
}
