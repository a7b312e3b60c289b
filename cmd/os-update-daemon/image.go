package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
)

const imageUsage = `Usage: os-update-daemon --image PATH [OPTION...]

Looks for one image at its origin and brings here what is new: with --oneshot once, else whenever
OS_CHECK_INTERVAL is over, until it is ended.

Options:
  --image PATH      the copy, as /srv/www/fleet/os-images/NAME.raw; NAME.raw is looked up in the
                    configuration
  --oneshot         once
  --config FILE     where it comes from (default /etc/os-update.yml)
  --settings FILE   has OS_CHECK_INTERVAL, a whole number of s, min, h or d as 90min
                    (default /etc/os-update-daemon.conf, and there 1h)
  --allow-older     take an image that is older than the copy here
  --json            results and progress as JSON Lines

Exit status: 0 done or ended, 1 error, 2 usage, 4 older than the copy, 5 another run is at work,
6 checksum or signature does not fit or not a disk image, 7 origin unreachable.
`

func imageFlags(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.image, "image", "", "")
	fs.BoolVar(&o.oneshot, "oneshot", false, "")
	configFlag(o, fs)
	settingsFlag(o, fs)
	fs.BoolVar(&o.allowOlder, "allow-older", false, "")
	jsonFlag(o, fs)
}

func checkImage(o *options) error {
	if o.image == "" {
		return usageError("--image is missing: want the path of a copy, as /srv/www/fleet/os-images/NAME.raw")
	}
	return nil
}

// runImage fetches one image, once or until the context ends.
func runImage(ctx context.Context, env *cli.Env, o *options) error {
	f := newFetcher(env, o, filepath.Dir(o.image))
	if o.oneshot {
		return fetchNamed(ctx, f, o)
	}
	for {
		interval, err := loadInterval(o.settings)
		if err != nil {
			return err
		}
		// The origin may be back the next time, and so may the configuration.
		if err := fetchNamed(ctx, f, o); err != nil && ctx.Err() == nil {
			fmt.Fprintf(env.Stderr, "%s: %v\n", program, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// fetchNamed fetches the image that the path names.
func fetchNamed(ctx context.Context, f *fetcher, o *options) error {
	c, err := origin.LoadConfig(o.config)
	if err != nil {
		return err
	}
	name := filepath.Base(o.image)
	for _, src := range c.Update {
		if src.Name == name {
			return f.fetch(ctx, src)
		}
	}
	return cli.Refuse(cli.Failure, errors.New("find image "+name+": "+o.config+" does not name it"),
		program+" timers stops the timers of images that are no longer configured")
}
