package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/verity"
)

type publishOptions struct {
	repo    string
	channel string
	refresh bool
	json    bool
}

func newPublishCommand(env *cli.Env) *cobra.Command {
	var opts publishOptions
	c := &cobra.Command{
		Use:   "publish SLOT-IMAGE... --repo DIR",
		Short: "Publish slot images to an update repository",
		Long: `Adds slot images to the repository in DIR, which is made if it is not there. A repository is a
folder of static files that devices read over HTTP; eos serve, any other web server or a CDN
can hand it out. Instead of a folder it may be in a bucket of S3 or what speaks its protocol, as
s3://BUCKET/PREFIX; the environment says where and who ($AWS_ENDPOINT_URL, $AWS_REGION,
$AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY), as for Amazon's own tools.

Every image is verified completely first: its signature by a key of the keys directory, and
each of its blocks. A version that is published already is left alone; the same version with
other content is refused. Readers see the old state or the new one, whatever happens half-way.

The repository's metadata expires, so that nobody can keep devices on an old state: publish
again or run eos publish --refresh within a week, from a timer for example. Refreshing needs
online.key only, targets.key once in 90 days and root.key once a year; publishing needs the first
two.`,
		Example: `  eos publish out/eos-1.2.slot --repo repo
  eos publish --refresh --repo repo`,
		Annotations: map[string]string{exitAnnotation: "4,5,6"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.repo == "" {
				return cli.Refuse(cli.Usage, errors.New("no repository given"), "name its folder with --repo")
			}
			if len(args) == 0 && !opts.refresh {
				return cli.Refuse(cli.Usage, errors.New("no slot image given"), "eos build writes them as NAME-VERSION.slot; with --refresh none is needed")
			}
			keys, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			return explainPublish(runPublish(cmd.Context(), env, keys, args, opts))
		},
	}
	f := c.Flags()
	f.StringVar(&opts.repo, "repo", "", "`place` of the repository, a folder or s3://BUCKET/PREFIX")
	f.StringVar(&opts.channel, "channel", repository.Stable, "`channel` of the images, as testing")
	f.BoolVar(&opts.refresh, "refresh", false, "sign snapshot and timestamp anew")
	f.BoolVar(&opts.json, "json", false, "print JSON, and progress as JSON Lines")
	_ = c.MarkFlagDirname("repo")
	return c
}

func runPublish(ctx context.Context, env *cli.Env, keys string, files []string, opts publishOptions) error {
	progress := cli.NewProgress(env, opts.json)
	defer progress.Done()
	ring, err := repository.LoadKeyring(keys)
	if err != nil {
		return err
	}
	o := repository.PublishOptions{Keys: ring, Channel: opts.channel, Progress: progress}
	if len(files) > 0 {
		if o.Accepted, err = imageKeys(keys); err != nil {
			return err
		}
	}
	repo, err := openRepository(ctx, opts.repo, keys, len(files) > 0)
	if err != nil {
		return err
	}
	var pub *repository.Publication
	if len(files) > 0 {
		if pub, err = repo.Publish(ctx, files, o); err != nil {
			return err
		}
	}
	if opts.refresh {
		fresh, err := repo.Refresh(ctx, o)
		if err != nil {
			return err
		}
		if pub != nil {
			fresh.Images = pub.Images
		}
		pub = fresh
	}
	progress.Done()
	for _, warning := range expiryWarnings(pub, time.Now()) {
		progress.Note("%s", warning)
	}
	if opts.json {
		return cli.PrintJSON(env.Stdout, pub)
	}
	for _, img := range pub.Images {
		what := "published"
		switch {
		case img.Unchanged && img.Channel != opts.channel:
			what = "is published already in channel " + img.Channel + ", which eos repo promote changes"
		case img.Unchanged:
			what = "is published already"
		case img.Channel != repository.Stable:
			what = "published in channel " + img.Channel
		}
		if _, err := fmt.Fprintf(env.Stdout, "%s %s for %s (%s) %s: %s in %d chunks\n", img.Name, img.Version, img.Class, img.Arch,
			what, humanize.Bytes(uint64(img.Blob.Length)), img.Chunks); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(env.Stdout, "%s: devices accept this until %s, publish or refresh before\n", opts.repo, pub.Expires.Format("2006-01-02 15:04 MST"))
	return err
}

// openRepository opens the repository at address, or makes one where there is none
// and make is set.
func openRepository(ctx context.Context, address, keys string, make bool) (*repository.Repository, error) {
	store, err := storeAt(address)
	if err != nil {
		return nil, err
	}
	repo, err := repository.Open(ctx, store)
	if err == nil || !make || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, repository.ErrNotRepository) {
		return repo, err
	}
	root, err := repository.LoadRoot(keys)
	if err != nil {
		return nil, err
	}
	return repository.Init(ctx, store, root)
}

// imageKeys returns the keys that slot images may be signed with: all of the
// keys directory but those that sign repositories.
func imageKeys(dir string) ([]ed25519.PublicKey, error) {
	all, err := key.LoadPublicDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var keys []ed25519.PublicKey
	for _, k := range all {
		if signsImages(k.Name) {
			keys = append(keys, k.Key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no public key of slot images in %s", repository.ErrNoKeys, dir)
	}
	return keys, nil
}

// expiryWarnings says what devices refuse already, or will soon: times that are zero are not looked at.
func expiryWarnings(pub *repository.Publication, now time.Time) []string {
	const day = 24 * time.Hour
	var out []string
	for _, f := range []struct {
		what, cure string
		at         time.Time
		early      time.Duration
	}{
		{"the root metadata", "refresh where root.key is", pub.Root, 30 * day},
		{"the list of images", "publish or refresh where targets.key is", pub.Targets, 30 * day},
		{"the timestamp", "run eos publish --refresh, from a timer for example", pub.Expires, 2 * day},
	} {
		left := f.at.Sub(now)
		var when string
		switch {
		case f.at.IsZero() || left >= f.early:
			continue
		case left <= 0:
			when = "has expired, devices refuse it"
		case left < 2*day:
			when = fmt.Sprintf("expires in %d hours", int(left.Hours()))
		default:
			when = fmt.Sprintf("expires in %d days", int(left/day))
		}
		out = append(out, fmt.Sprintf("warning: %s %s (%s): %s", f.what, when, f.at.Format(time.DateOnly), f.cure))
	}
	return out
}

// explainPublish gives an error its exit code and says what to do about it.
func explainPublish(err error) error {
	var coded *cli.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	var corrupt *verity.CorruptError
	switch is := func(e error) bool { return errors.Is(err, e) }; {
	case is(repository.ErrNoKeys):
		return cli.Refuse(cli.Failure, err, "make keys with eos keys new, or give their folder with --keys or $EOS_KEYS")
	case is(repository.ErrNotRepository):
		return cli.Refuse(cli.Failure, err, "--repo wants a folder that eos publish made, or an empty or new one")
	case is(repository.ErrWrongKey):
		return cli.Refuse(cli.Refused, err, "the repository was made with other keys; give their folder with --keys or $EOS_KEYS")
	case is(repository.ErrPublished):
		return cli.Refuse(cli.Refused, err, "devices may have it: raise the version in the image description and build again")
	case is(repository.ErrLocked):
		return cli.Refuse(cli.Locked, err, "wait for it to end")
	case is(repository.ErrDamaged):
		return cli.Refuse(cli.Unverified, err, "restore the repository from a copy")
	case is(slotimage.ErrUnknownKey), is(slotimage.ErrUnsigned):
		return cli.Refuse(cli.Unverified, err, "eos keys list shows the keys that images may be signed with; give another folder with --keys")
	case is(slotimage.ErrEmpty), is(slotimage.ErrNoManifest):
		return cli.Refuse(cli.Unverified, err, "publish the .slot file that eos build wrote, not the disk image")
	case is(slotimage.ErrBadSignature), is(slotimage.ErrMismatch), is(slotimage.ErrTooLarge), is(slotimage.ErrFormat),
		is(slotimage.ErrVersion), is(slotimage.ErrManifest), errors.As(err, &corrupt):
		return cli.Refuse(cli.Unverified, err, "the file is damaged: copy or build it again")
	case is(os.ErrNotExist):
		return cli.Refuse(cli.Failure, err, "")
	}
	return err
}
