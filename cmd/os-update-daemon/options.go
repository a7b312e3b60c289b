package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/OSInside/eos/internal/cli"
)

const program = "os-update-daemon"

const usage = `Usage: os-update-daemon serve [OPTION...]

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

type options struct {
	repo, listen, metrics string
	cert, key, clientCA   string
	maxConns              int
	grace                 time.Duration
	json                  bool
}

// parse reads the command line. Help is asked for when the error is flag.ErrHelp.
func parse(args []string) (*options, error) {
	bad := func(format string, a ...any) (*options, error) {
		return nil, cli.Refuse(cli.Usage, fmt.Errorf(format, a...), program+" --help lists the options")
	}
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
		return nil, flag.ErrHelp
	}
	if len(args) == 0 || args[0] != "serve" {
		return bad("no command given: want serve")
	}
	o := &options{}
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.repo, "repo", "/srv/www/fleet/repository", "")
	fs.StringVar(&o.listen, "listen", "", "")
	fs.StringVar(&o.cert, "tls-cert", "", "")
	fs.StringVar(&o.key, "tls-key", "", "")
	fs.StringVar(&o.clientCA, "client-ca", "", "")
	fs.StringVar(&o.metrics, "metrics", "127.0.0.1:9091", "")
	fs.IntVar(&o.maxConns, "max-connections", 4096, "")
	fs.DurationVar(&o.grace, "grace", 30*time.Second, "")
	fs.BoolVar(&o.json, "json", false, "")
	switch err := fs.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return nil, err
	case err != nil:
		return bad("%w", err)
	case fs.NArg() > 0:
		return bad("unexpected argument %q", fs.Arg(0))
	case (o.cert == "") != (o.key == ""):
		return bad("--tls-cert and --tls-key: one is given without the other")
	case o.clientCA != "" && o.cert == "":
		return bad("--client-ca needs --tls-cert and --tls-key")
	case o.maxConns < 1:
		return bad("--max-connections %d: want 1 at least", o.maxConns)
	case o.grace <= 0:
		return bad("--grace %v: want a time like 30s", o.grace)
	}
	if o.listen == "" {
		o.listen = ":80"
		if o.cert != "" {
			o.listen = ":443"
		}
	}
	return o, nil
}
