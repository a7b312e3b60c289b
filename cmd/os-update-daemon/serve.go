package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve"
)

const serveUsage = `Usage: os-update-daemon serve [OPTION...]

Hands out an update repository over HTTP or HTTPS until it is ended; answers that run then are
finished first. It may run while the repository is published to.

Options:
  --repo DIR              the repository (default /srv/www/fleet/repository)
  --listen ADDRESS        address and port to serve on (default :80, with TLS :443)
  --tls-cert FILE         certificate, PEM; looked at again when it changes
  --tls-key FILE          its private key, PEM
  --client-ca FILE        serve only clients with a certificate of these authorities, PEM
  --metrics ADDRESS       address and port for /metrics and /healthz (default 127.0.0.1:9091,
                          empty: none)
  --max-connections N     connections at a time; more have to wait (default 4096)
  --grace TIME            for answers that run at the end (default 30s)
  --json                  log as JSON Lines

/healthz is answered on the serving address too: 200, or 503 with the reason when devices would
refuse what is served.

Exit status: 0 ended, 1 error, 2 usage.
`

func serveFlags(o *options, fs *flag.FlagSet) {
	repoFlag(o, fs)
	fs.StringVar(&o.listen, "listen", "", "")
	fs.StringVar(&o.cert, "tls-cert", "", "")
	fs.StringVar(&o.key, "tls-key", "", "")
	fs.StringVar(&o.clientCA, "client-ca", "", "")
	fs.StringVar(&o.metrics, "metrics", "127.0.0.1:9091", "")
	fs.IntVar(&o.maxConns, "max-connections", 4096, "")
	fs.DurationVar(&o.grace, "grace", 30*time.Second, "")
	jsonFlag(o, fs)
}

func checkServe(o *options) error {
	switch {
	case (o.cert == "") != (o.key == ""):
		return usageError("--tls-cert and --tls-key: one is given without the other")
	case o.clientCA != "" && o.cert == "":
		return usageError("--client-ca needs --tls-cert and --tls-key")
	case o.maxConns < 1:
		return usageError("--max-connections %d: want 1 at least", o.maxConns)
	case o.grace <= 0:
		return usageError("--grace %v: want a time like 30s", o.grace)
	}
	if o.listen == "" {
		o.listen = ":80"
		if o.cert != "" {
			o.listen = ":443"
		}
	}
	return nil
}

func runServe(ctx context.Context, o *options, log *slog.Logger) error {
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
