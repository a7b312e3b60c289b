package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve"
)

// Main is the program.
func Main(ctx context.Context, env *cli.Env) error {
	o, err := parse(env.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(env.Stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	var handler slog.Handler = slog.NewTextHandler(env.Stderr, nil)
	if o.json {
		handler = slog.NewJSONHandler(env.Stderr, nil)
	}
	return run(ctx, o, slog.New(handler))
}

func run(ctx context.Context, o *options, log *slog.Logger) error {
	h, err := serve.New(o.repo, log)
	if err != nil {
		return cli.Refuse(cli.Failure, err, "eos publish makes a repository; --repo names its folder")
	}
	defer h.Close()
	h.Metrics = serve.NewMetrics(h)
	health := serve.Health{Handler: h}
	// An empty repository is served too: what is published appears. But somebody should know.
	if _, err := h.Expires(); err != nil {
		log.Warn("devices cannot use this repository yet", "error", err.Error())
	}
	opts := serve.Options{MaxConns: o.maxConns, Grace: o.grace, Log: log}
	scheme := "http"
	if o.cert != "" {
		scheme = "https"
		if opts.TLS, err = serve.LoadTLS(o.cert, o.key, o.clientCA); err != nil {
			return err
		}
	}
	public := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			health.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
	l, err := listen(ctx, o.listen)
	if err != nil {
		return err
	}
	log.Info("serving", "repo", o.repo, "url", scheme+"://"+l.Addr().String()+"/")

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var private chan error
	if o.metrics != "" {
		mux := http.NewServeMux()
		mux.Handle("/metrics", h.Metrics)
		mux.Handle("/healthz", health)
		ml, err := listen(ctx, o.metrics)
		if err != nil {
			l.Close()
			return err
		}
		log.Info("metrics", "url", "http://"+ml.Addr().String()+"/metrics")
		private = make(chan error, 1)
		go func() { private <- serve.Run(ctx, ml, mux, serve.Options{MaxConns: 16, Grace: o.grace, Log: log}) }()
	}
	err = serve.Run(ctx, l, public, opts)
	cancel()
	if private != nil {
		err = errors.Join(err, <-private)
	}
	log.Info("stopped")
	return err
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	hint := ""
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "something listens there already; choose another address with --listen or --metrics"
	case errors.Is(err, syscall.EACCES):
		hint = "ports below 1024 need rights (systemd gives them); choose another with --listen"
	}
	return nil, cli.Refuse(cli.Failure, err, hint)
}
