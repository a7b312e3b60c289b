package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
)

func newRepoCommand(env *cli.Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "repo",
		Short: "Look after an update repository",
		Long: `Lists, verifies and tidies a repository that eos publish made, and moves images between its
channels.`,
		Example: `  eos repo list --repo repo
  eos repo promote eos 1.2 --to stable --repo repo`,
		Args: cobra.NoArgs,
		RunE: needCommand,
	}
	c.AddCommand(newRepoListCommand(env), newRepoVerifyCommand(env), newRepoPromoteCommand(env), newRepoPruneCommand(env))
	return c
}

// repoFlags are those that all commands on a repository have.
type repoFlags struct {
	repo string
	json bool
}

func (o *repoFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&o.repo, "repo", "", "`place` of the repository, a folder or s3://BUCKET/PREFIX")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON, and progress as JSON Lines")
	_ = c.MarkFlagDirname("repo")
}

// open opens the repository.
func (o *repoFlags) open(ctx context.Context) (*repository.Repository, error) {
	if o.repo == "" {
		return nil, cli.Refuse(cli.Usage, errors.New("no repository given"), "name its folder with --repo")
	}
	store, err := storeAt(o.repo)
	if err != nil {
		return nil, err
	}
	repo, err := repository.Open(ctx, store)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Refuse(cli.Failure, err, "eos publish makes a repository")
	}
	return repo, explainPublish(err)
}

func newRepoListCommand(env *cli.Env) *cobra.Command {
	var opts repoFlags
	c := &cobra.Command{
		Use:   "list --repo DIR",
		Short: "List the images of a repository",
		Long: `Lists the images that devices can have: name, version, device class, architecture, channel, size
and when they were built. It warns of metadata that has expired or will soon.`,
		Example: `  eos repo list --repo repo
  eos repo list --repo repo --json | jq -r '.[].version'`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "6"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			repo, err := opts.open(cmd.Context())
			if err != nil {
				return err
			}
			cat, err := repo.Catalog(cmd.Context())
			if err != nil {
				return explainPublish(err)
			}
			for _, p := range cat.Problems() {
				fmt.Fprintf(env.Stderr, "warning: devices pass over %s\n", p)
			}
			status, err := repo.Status(cmd.Context())
			if err != nil {
				return explainPublish(err)
			}
			for _, warning := range expiryWarnings(status, time.Now()) {
				fmt.Fprintln(env.Stderr, warning)
			}
			if opts.json {
				return cli.PrintJSON(env.Stdout, append([]repository.Image{}, cat.All()...))
			}
			return printImages(env, cat.All())
		},
	}
	opts.add(c)
	return c
}

func printImages(env *cli.Env, images []repository.Image) error {
	w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tCLASS\tARCH\tCHANNEL\tSIZE\tBUILT")
	for _, i := range images {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Name, i.Version, i.Class, i.Arch, i.Channel,
			humanize.Bytes(uint64(i.Blob.Length)), time.Unix(i.Built, 0).UTC().Format(time.DateOnly))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

func newRepoVerifyCommand(env *cli.Env) *cobra.Command {
	var opts repoFlags
	var quick bool
	c := &cobra.Command{
		Use:   "verify --repo DIR",
		Short: "Verify all of a repository",
		Long: `Reads the repository as all devices together would: every version of the root from the first,
the metadata that is current, and every file of every image. It ends with status 6 if devices
could not have all of it, and says what is wrong, one line each. Metadata that has expired is
wrong too; what expires within 30 days is a warning, for the timestamp within two.`,
		Example: `  eos repo verify --repo repo
  eos repo verify --repo repo --quick --json`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "6"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			return runRepoVerify(cmd.Context(), env, keys, quick, &opts)
		},
	}
	opts.add(c)
	c.Flags().BoolVar(&quick, "quick", false, "look at the size of blobs only, do not read them")
	return c
}

func runRepoVerify(ctx context.Context, env *cli.Env, keys string, quick bool, opts *repoFlags) error {
	// A damaged repository cannot be opened, and is what this command is for.
	repo, err := opts.open(ctx)
	if errors.Is(err, repository.ErrDamaged) {
		var store repository.Store
		store, err = storeAt(opts.repo)
		repo = repository.New(store)
	}
	if err != nil {
		return err
	}
	progress := cli.NewProgress(env, opts.json)
	defer progress.Done()
	o := repository.VerifyOptions{Quick: quick, Progress: progress}
	if o.Accepted, err = imageKeys(keys); errors.Is(err, repository.ErrNoKeys) {
		progress.Note("warning: no key of images in %s, their own signatures are not checked", keys)
	} else if err != nil {
		return err
	}
	report, err := repo.Verify(ctx, o)
	if err != nil {
		return explainPublish(err)
	}
	progress.Done()
	for _, warning := range expiryWarnings(unexpired(report.Roles), time.Now()) {
		progress.Note("%s", warning)
	}
	if opts.json {
		err = cli.PrintJSON(env.Stdout, report)
	} else {
		err = printReport(env, report)
	}
	if err != nil || len(report.Problems) == 0 {
		return err
	}
	return cli.Refuse(cli.Unverified, fmt.Errorf("verify %s: %s", opts.repo, report.Problems[0]),
		"eos publish --refresh signs anew what has expired; publish damaged images again from their slot images, or restore a copy")
}

// unexpired is when roles expire that have not: those that have are problems of the report.
func unexpired(roles []repository.RoleState) *repository.Publication {
	pub := &repository.Publication{}
	for _, r := range roles {
		at := map[string]*time.Time{"root": &pub.Root, "targets": &pub.Targets, "timestamp": &pub.Expires}[r.Role]
		if at != nil && !r.Expired {
			*at = r.Expires
		}
	}
	return pub
}

func printReport(env *cli.Env, r *repository.Report) error {
	w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
	if len(r.Roles) > 0 {
		fmt.Fprintln(w, "ROLE\tVERSION\tEXPIRES\tKEYS")
	}
	for _, s := range r.Roles {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d of %s\n", s.Role, s.Version, s.Expires.Format(time.DateOnly), s.Threshold, strings.Join(s.Keys, ", "))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(env.Stdout, "wrong: %s\n", p)
	}
	text := fmt.Sprintf("%s, %s (%s) right", count(len(r.Images), "image"), count(r.Files, "file"), humanize.Bytes(uint64(r.Bytes)))
	if r.Unlisted > 0 {
		text += fmt.Sprintf(", %s of no listed image", count(r.Unlisted, "file"))
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}

func newRepoPromoteCommand(env *cli.Env) *cobra.Command {
	var opts repoFlags
	var to, class string
	c := &cobra.Command{
		Use:   "promote NAME VERSION --to CHANNEL --repo DIR",
		Short: "Move an image to another channel",
		Long: `Moves a version of an image to a channel: from testing to stable when it has proved itself, or
back. Devices follow the channel in their configuration; what is stable is good for all of them.
Nothing is copied. Devices that have installed a version keep it when it is moved away.`,
		Example: `  eos publish out/eos-1.2.slot --channel testing --repo repo
  eos repo promote eos 1.2 --to stable --repo repo`,
		Args:        cobra.ExactArgs(2),
		Annotations: map[string]string{exitAnnotation: "4,5,6"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return cli.Refuse(cli.Usage, errors.New("no channel given"), "name it with --to, as --to stable")
			}
			ctx := cmd.Context()
			repo, err := opts.open(ctx)
			if err != nil {
				return err
			}
			o, err := signOptions(cmd, env)
			if err != nil {
				return err
			}
			pub, moved, err := repo.Promote(ctx, args[0], class, args[1], to, o)
			if errors.Is(err, repository.ErrNoImage) {
				return cli.Refuse(cli.Refused, err, "eos repo list shows what there is")
			} else if err != nil {
				return explainPublish(err)
			}
			if opts.json {
				return cli.PrintJSON(env.Stdout, struct {
					*repository.Publication
					Images []repository.Image `json:"images"` // with the channel of before
				}{pub, append([]repository.Image{}, moved...)})
			}
			for _, i := range moved {
				fmt.Fprintf(env.Stdout, "%s %s for %s (%s): from %s to %s\n", i.Name, i.Version, i.Class, i.Arch, i.Channel, to)
			}
			if len(moved) == 0 {
				fmt.Fprintf(env.Stdout, "%s %s is in %s already\n", args[0], args[1], to)
			}
			return nil
		},
	}
	opts.add(c)
	c.Flags().StringVar(&to, "to", "", "`channel` to move it to")
	c.Flags().StringVar(&class, "class", "", "only the image for this device `class`")
	_ = c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{repository.Stable, repository.Testing}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// signOptions are what signing needs of the keys directory.
func signOptions(cmd *cobra.Command, env *cli.Env) (repository.PublishOptions, error) {
	keys, err := keysDir(cmd, env)
	if err != nil {
		return repository.PublishOptions{}, err
	}
	ring, err := repository.LoadKeyring(keys)
	return repository.PublishOptions{Keys: ring}, explainPublish(err)
}

func newRepoPruneCommand(env *cli.Env) *cobra.Command {
	var opts repoFlags
	p := repository.PruneOptions{}
	c := &cobra.Command{
		Use:   "prune --keep N --repo DIR",
		Short: "Remove old images from a repository",
		Long: `Takes all but the newest N versions of each image off the list, in each channel and for each
device class, and removes files that have not been listed for the grace time. Until then devices
that have an older list, or are in the middle of fetching, find what they want. Metadata that was
replaced goes too, but never the root's: devices go from one version of it to the next.

Devices that run a version that is gone from the list are not concerned; they cannot be told to
install it again.`,
		Example: `  eos repo prune --keep 3 --repo repo --dry-run
  eos repo prune --keep 3 --grace 24h --repo repo`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "4,5,6"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case p.Keep < 1:
				return cli.Refuse(cli.Usage, errors.New("nothing would be left"), "say how many versions to keep with --keep, 1 at least")
			case p.Grace <= 0:
				return cli.Refuse(cli.Usage, fmt.Errorf("grace time %v", p.Grace), "give a time like 24h; readers need some")
			}
			repo, err := opts.open(cmd.Context())
			if err != nil {
				return err
			}
			if p.PublishOptions, err = signOptions(cmd, env); err != nil {
				return err
			}
			done, err := repo.Prune(cmd.Context(), p)
			if err != nil {
				return explainPublish(err)
			}
			if opts.json {
				done.Images = append([]repository.Image{}, done.Images...)
				return cli.PrintJSON(env.Stdout, done)
			}
			return printPruned(env, done)
		},
	}
	opts.add(c)
	c.Flags().IntVar(&p.Keep, "keep", 0, "`number` of versions to keep")
	c.Flags().DurationVar(&p.Grace, "grace", repository.PruneGrace, "`time` that files stay after they were last listed")
	c.Flags().BoolVar(&p.DryRun, "dry-run", false, "only say what would be removed")
	return c
}

func printPruned(env *cli.Env, p *repository.Pruned) error {
	unlisted, removed := "no longer listed", "removed"
	if p.DryRun {
		unlisted, removed = "would no longer be listed", "would be removed"
	}
	for _, i := range p.Images {
		fmt.Fprintf(env.Stdout, "%s %s for %s (%s), %s: %s\n", i.Name, i.Version, i.Class, i.Arch, i.Channel, unlisted)
	}
	text := fmt.Sprintf("%s (%s) %s", count(p.Files, "file"), humanize.Bytes(uint64(p.Bytes)), removed)
	if p.Later > 0 {
		text += fmt.Sprintf(", %s not listed but still within the grace time", count(p.Later, "file"))
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}
