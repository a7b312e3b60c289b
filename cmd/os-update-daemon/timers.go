package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/origin"
)

const timersUsage = `Usage: os-update-daemon timers [OPTION...]

Has systemd look for each image of the configuration regularly: starts os-update-daemon@NAME.timer
for the image NAME.raw and os-update-daemon@repository.timer for the repository, stops those of what
is no longer configured, and makes them go off whenever OS_CHECK_INTERVAL is over. It is the one
part of this program that needs root.

Options:
  --config FILE     the images (default /etc/os-update.yml)
  --settings FILE   has OS_CHECK_INTERVAL, a whole number of s, min, h or d as 90min
                    (default /etc/os-update-daemon.conf, and there 1h)

Exit status: 0 done, 1 error, 2 usage.
`

func timersFlags(o *options, fs *flag.FlagSet) {
	configFlag(o, fs)
	settingsFlag(o, fs)
}

const (
	timerPrefix = program + "@"
	timerSuffix = ".timer"
)

// timerOf returns the timer of an image.
func timerOf(image string) string {
	return timerPrefix + strings.TrimSuffix(image, ".raw") + timerSuffix
}

// A plan is what to do for timers to be as they are configured.
type plan struct {
	dropIn string     // content for the drop-in; empty: it is right
	calls  [][]string // of systemctl, in this order
}

// planTimers decides. The images are those configured, the timers those there are, the drop-in is
// the one there is; without one the timer's own interval holds, the default.
func planTimers(images, timers []string, interval time.Duration, dropIn string) plan {
	var p plan
	start := "start"
	if dropIn == "" {
		dropIn = dropInText(defaultInterval)
	}
	if want := dropInText(interval); dropIn != want {
		p.dropIn = want
		p.calls = append(p.calls, []string{"daemon-reload"})
		start = "restart" // those that run go by the old interval
	}
	var wanted, gone []string
	for _, image := range images {
		wanted = append(wanted, timerOf(image))
	}
	for _, t := range timers {
		if strings.HasPrefix(t, timerPrefix) && strings.HasSuffix(t, timerSuffix) && !slices.Contains(wanted, t) {
			gone = append(gone, t)
		}
	}
	if len(gone) > 0 {
		p.calls = append(p.calls, append([]string{"stop", "--"}, gone...))
	}
	if len(wanted) > 0 {
		p.calls = append(p.calls, append([]string{start, "--"}, wanted...))
	}
	return p
}

// dropInText replaces the times of the timer. Nothing is asked right at the start of a timer:
// os-fetch.service has just done it.
func dropInText(interval time.Duration) string {
	s := int64(interval / time.Second)
	return fmt.Sprintf("# Made by %s from OS_CHECK_INTERVAL.\n[Timer]\nOnActiveSec=\nOnActiveSec=%ds\nOnUnitInactiveSec=%ds\nAccuracySec=1s\n", program, s, s)
}

// An initSystem is systemd, as far as timers go.
type initSystem struct {
	dropIn    string // place of the drop-in
	systemctl func(ctx context.Context, args ...string) ([]byte, error)
}

var system = initSystem{
	dropIn: "/run/systemd/system/" + timerPrefix + timerSuffix + ".d/10-interval.conf",
	systemctl: func(ctx context.Context, args ...string) ([]byte, error) {
		return command.Output(ctx, command.Cmd{Argv: append([]string{"systemctl"}, args...)})
	},
}

// runTimers brings the timers in line.
func runTimers(ctx context.Context, env *cli.Env, o *options, s initSystem) error {
	c, err := origin.LoadConfig(o.config)
	if err != nil {
		return err
	}
	interval, err := loadInterval(o.settings)
	if err != nil {
		return err
	}
	var images []string
	if c.Mirror != "" {
		images = append(images, origin.RepositoryName)
	}
	for _, src := range c.Update {
		images = append(images, src.Name)
	}
	timers, err := s.timers(ctx)
	if err != nil {
		return err
	}
	dropIn, err := os.ReadFile(s.dropIn)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read interval of timers: %w", err)
	}
	p := planTimers(images, timers, interval, string(dropIn))
	if p.dropIn != "" {
		err := os.MkdirAll(filepath.Dir(s.dropIn), 0o755)
		if err == nil {
			err = renameio.WriteFile(s.dropIn, []byte(p.dropIn), 0o644)
		}
		if err != nil {
			return cli.Refuse(cli.Failure, fmt.Errorf("set interval of timers: %w", err), "it needs root")
		}
	}
	// What does not start must not keep the others from it.
	var errs error
	for _, call := range p.calls {
		if _, err := s.systemctl(ctx, call...); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	if errs != nil && p.dropIn != "" {
		// Who sees it there takes it for effective: the next run has to do all of it again.
		errs = errors.Join(errs, os.Remove(s.dropIn))
	}
	if errs == nil {
		fmt.Fprintf(env.Stderr, "%s: timers: %d, every %v\n", program, len(images), interval)
	}
	return errs
}

// timers returns the timers of the template that systemd has.
func (s initSystem) timers(ctx context.Context) ([]string, error) {
	out, err := s.systemctl(ctx, "list-units", "--all", "--plain", "--full", "--no-legend", "--no-pager", timerPrefix+"*"+timerSuffix)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range bytes.Lines(out) {
		if f := strings.Fields(string(line)); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return names, nil
}
