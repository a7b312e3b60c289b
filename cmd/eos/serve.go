package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/serve"
)

type serveOptions struct {
	repo   string
	listen string
	json   bool
}

func newServeCommand(env *cli.Env) *cobra.Command {
	var opts serveOptions
	c := &cobra.Command{
		Use:   "serve --repo DIR",
		Short: "Serve an update repository over HTTP",
		Long: `Serves the repository in DIR over HTTP until it is interrupted; answers that run then are
finished first. It may run while eos publish adds images.

Requests are logged to standard error. Devices trust the repository's signatures, not the
server, so that plain HTTP gives nothing away but what is fetched.`,
		Example: `  eos serve --repo repo
  eos serve --repo repo --listen :8080 --json 2>access.log`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "6"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.repo == "" {
				return cli.Refuse(cli.Usage, errors.New("no repository given"), "name its folder with --repo")
			}
			return runServe(cmd.Context(), env, opts)
		},
	}
	f := c.Flags()
	f.StringVar(&opts.repo, "repo", "", "`folder` of the repository")
	f.StringVar(&opts.listen, "listen", "127.0.0.1:8080", "`address` and port to listen on")
	f.BoolVar(&opts.json, "json", false, "log as JSON Lines")
	_ = c.MarkFlagDirname("repo")
	return c
}

func runServe(ctx context.Context, env *cli.Env, opts serveOptions) error {
	if _, err := repository.Open(ctx, repository.Folder(opts.repo)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return cli.Refuse(cli.Failure, err, "eos publish makes a repository")
		}
		return explainPublish(err)
	}
	var handler slog.Handler = slog.NewTextHandler(env.Stderr, nil)
	if opts.json {
		handler = slog.NewJSONHandler(env.Stderr, nil)
	}
	log := slog.New(handler)
	h, err := serve.New(opts.repo, log)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.listen)
	if err != nil {
		hint := ""
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			hint = "something listens there already; choose another address with --listen"
		case errors.Is(err, syscall.EACCES):
			hint = "ports below 1024 need rights; choose another with --listen"
		}
		return cli.Refuse(cli.Failure, err, hint)
	}
	log.Info("serving", "repo", opts.repo, "url", fmt.Sprintf("http://%s/", l.Addr()))
	if err := serve.Run(ctx, l, h, serve.Options{Log: log}); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}
