package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
	"github.com/OSInside/eos/internal/repository"
)

const mirrorUsage = `Usage: os-update-daemon mirror [OPTION...]

Makes the repository here a copy of the one that the configuration names under mirror:, once. All
of it is verified like on a device and never older than what is here; whatever goes wrong, what was
served before is served on.

Options:
  --config FILE     names the repository (default /etc/os-update.yml)
  --repo DIR        the copy (default /srv/www/fleet/repository)
  --root FILE       root metadata that trust begins with (default /usr/share/eos/root.json)
  --json            result and progress as JSON Lines

Exit status: 0 done, 1 error, 2 usage, 4 older than the copy or expired, 5 another run is at work,
6 verification did not succeed, 7 unreachable.
`

func mirrorFlags(o *options, fs *flag.FlagSet) {
	configFlag(o, fs)
	repoFlag(o, fs)
	rootFlag(o, fs)
	jsonFlag(o, fs)
}

func rootFlag(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.root, "root", "/usr/share/eos/root.json", "")
}

// runMirror copies the repository once.
func runMirror(ctx context.Context, env *cli.Env, o *options) error {
	c, err := origin.LoadConfig(o.config)
	if err != nil {
		return err
	}
	if c.Mirror == "" {
		return cli.Refuse(cli.Failure, errors.New("mirror repository: "+o.config+" names none"), "give its URL under mirror:")
	}
	return newFetcher(env, o, o.images).mirror(ctx, o, c.Mirror)
}

// mirror prints one line, and returns an error with its exit code.
func (f *fetcher) mirror(ctx context.Context, o *options, url string) error {
	root, err := os.ReadFile(o.root)
	if err != nil {
		return fmt.Errorf("read trusted root metadata: %w", err)
	}
	client := &repository.Client{BaseURL: url, RootJSON: root}
	m, err := repository.Mirror(ctx, client, repository.Folder(o.repo), repository.MirrorOptions{Progress: f.progress})
	r := result{Name: "mirror", Result: "unchanged"}
	switch {
	case err != nil:
		r.Result, r.Error = "failed", err.Error()
	default:
		r.Size, r.Expires = m.Bytes, &m.Expires
		if m.Changed {
			r.Result = "fetched"
		}
	}
	return errors.Join(refusal(err), f.print(r))
}

// mirrorText says what came of a copy.
func mirrorText(r result) string {
	text := "mirror: " + r.Result
	if r.Result == "fetched" {
		text += ", " + humanize.IBytes(uint64(max(r.Size, 0))) + " of images"
	}
	if r.Expires != nil {
		text += ", good until " + r.Expires.UTC().Format(time.RFC3339)
	}
	return text
}
