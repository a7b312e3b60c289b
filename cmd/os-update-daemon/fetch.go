package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
	"github.com/OSInside/eos/internal/repository"
)

const fetchUsage = `Usage: os-update-daemon fetch [OPTION...]

Looks once at the repository and at the origin of each image of the configuration, and brings here
what is new. If one of them goes wrong, the others are fetched all the same, and what was served
before is served on.

Options:
  --config FILE     the images and where they come from (default /etc/os-update.yml)
  --images DIR      where they are kept (default /srv/www/fleet/os-images)
  --repo DIR        the copy of the repository (default /srv/www/fleet/repository)
  --root FILE       root metadata that trust begins with (default /usr/share/eos/root.json)
  --allow-older     take images that are older than the copies here
  --json            results and progress as JSON Lines

Exit status: 0 done; else that of the first that went wrong: 1 error, 4 older than the copy or
expired, 5 another run is at work, 6 checksum or signature does not fit or not a disk image,
7 origin unreachable; 2 usage.
`

func fetchFlags(o *options, fs *flag.FlagSet) {
	configFlag(o, fs)
	imagesFlag(o, fs)
	repoFlag(o, fs)
	rootFlag(o, fs)
	fs.BoolVar(&o.allowOlder, "allow-older", false, "")
	jsonFlag(o, fs)
}

// runFetch fetches all images once.
func runFetch(ctx context.Context, env *cli.Env, o *options) error {
	c, err := origin.LoadConfig(o.config)
	if err != nil {
		return err
	}
	if len(c.Update) == 0 && c.Mirror == "" {
		fmt.Fprintf(env.Stderr, "%s: %s names no images and no repository\n", program, o.config)
	}
	f := newFetcher(env, o, o.images)
	var errs error
	if c.Mirror != "" {
		errs = f.mirror(ctx, o, c.Mirror)
	}
	for _, src := range c.Update {
		errs = errors.Join(errs, f.fetch(ctx, src))
		if ctx.Err() != nil {
			break
		}
	}
	return errs
}

// A fetcher fetches images one by one, and says what came of it.
type fetcher struct {
	env      *cli.Env
	site     origin.Site
	progress cli.Progress
}

func newFetcher(env *cli.Env, o *options, dir string) *fetcher {
	return &fetcher{env, origin.Site{Dir: dir, AllowOlder: o.allowOlder}, cli.NewProgress(env, o.json)}
}

// result is a line of --json.
type result struct {
	Name    string `json:"name"`
	Result  string `json:"result"` // fetched, unchanged, failed
	Version string `json:"version,omitempty"`
	Size    int64  `json:"size,omitempty"` // bytes; of a repository: of the images that were fetched
	SHA256  string `json:"sha256,omitempty"`
	Error   string `json:"error,omitempty"`
	// Expires is until when devices take the copy of a repository.
	Expires *time.Time `json:"expires,omitempty"`
}

// fetch prints one line for the image, and returns an error with its exit code.
func (f *fetcher) fetch(ctx context.Context, src origin.Source) error {
	f.site.Progress = stages(f.progress, src.Name)
	st, changed, err := f.site.Update(ctx, src)
	f.progress.Done()
	r := result{Name: src.Name, Result: "unchanged", Version: st.Version, Size: st.Size, SHA256: st.SHA256}
	switch {
	case err != nil:
		r.Result, r.Error = "failed", err.Error()
	case changed:
		r.Result = "fetched"
	}
	return errors.Join(refusal(err), f.print(r))
}

func (f *fetcher) print(r result) error {
	if f.env.JSON {
		if err := json.NewEncoder(f.env.Stdout).Encode(r); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		return nil
	}
	text := r.Name + ": " + r.Result
	if r.Name == "mirror" { // no image is called so
		text = mirrorText(r)
	} else if r.Result == "fetched" {
		text += fmt.Sprintf(", version %s, %s, SHA-256 %.16s", orDash(r.Version), humanize.IBytes(uint64(r.Size)), r.SHA256)
	}
	if _, err := fmt.Fprintln(f.env.Stdout, text); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// unchanged is what all errors have in common.
const unchanged = "the copy is as it was"

// refusals are the exit codes of what can go wrong at an origin, and what to do about it.
var refusals = []struct {
	kind error
	code cli.Code
	hint string
}{
	{origin.ErrLocked, cli.Locked, "the other run brings the image here"},
	{origin.ErrOlder, cli.Refused, "--allow-older takes it"},
	{origin.ErrChecksum, cli.Unverified, "whoever publishes the image has to see to it; " + unchanged},
	{origin.ErrNotImage, cli.Unverified, "see whether the URL names the right file; " + unchanged},
	{origin.ErrOrigin, cli.Unreachable, unchanged + "; a download that broke off goes on the next time"},
	{origin.ErrSpace, cli.Failure, unchanged},

	{repository.ErrLocked, cli.Locked, "the other run makes the copy"},
	{repository.ErrExpired, cli.Refused, "the publisher has to sign again (eos publish --refresh), or this machine's clock is wrong"},
	{repository.ErrRollback, cli.Refused, "somebody has put an old state there, or holds back a new one; " + unchanged},
	{repository.ErrNotRepository, cli.Refused, "name an empty folder, or one that holds a repository, with --repo"},
	{repository.ErrUntrusted, cli.Unverified, unchanged + "; --root names what trust begins with"},
	{repository.ErrTooLarge, cli.Unverified, unchanged},
	{repository.ErrUnreachable, cli.Unreachable, unchanged},
	{repository.ErrTruncated, cli.Unreachable, unchanged},
}

// refusal gives an error of an origin its exit code.
func refusal(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	for _, k := range refusals {
		if errors.Is(err, k.kind) {
			return cli.Refuse(k.code, err, k.hint)
		}
	}
	return cli.Refuse(cli.Failure, err, "")
}

// stages shows a download as a stage, and one that begins anew as another.
func stages(p cli.Progress, name string) func(done, total int64) {
	last := int64(-1)
	return func(done, total int64) {
		if last < 0 || done < last {
			p.Stage("fetch "+name, total)
			last = 0
		}
		p.Add(done - last)
		last = done
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
