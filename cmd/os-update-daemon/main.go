// Command os-update-daemon is the update server: it hands out a repository, and keeps copies of
// disk images that are published elsewhere. It decides nothing about trust, which devices do by
// signatures; it needs no privilege but to start timers. See os-update-daemon(8).
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve"
)

func main() { os.Exit(cli.Run(program, Main)) }

// Main is the program.
func Main(ctx context.Context, env *cli.Env) error {
	o, err := parse(env.Args)
	if err != nil {
		return err
	}
	if o.help != "" {
		_, err := io.WriteString(env.Stdout, o.help)
		return err
	}
	env.JSON = o.json
	switch o.action {
	case "serve":
		// Little is kept between requests: collecting it seldom is cheap in memory too.
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(256 << 20) // of the 512 MiB that its unit has
		w := serve.NewLogWriter(env.Stderr)
		var handler slog.Handler = slog.NewTextHandler(w, nil)
		if o.json {
			handler = slog.NewJSONHandler(w, nil)
		}
		return errors.Join(runServe(ctx, o, slog.New(handler)), w.Close())
	case "fetch":
		return runFetch(ctx, env, o)
	case "mirror":
		return runMirror(ctx, env, o)
	case "timers":
		return runTimers(ctx, env, o, system)
	case "status":
		return runStatus(env, o)
	}
	return runImage(ctx, env, o)
}
