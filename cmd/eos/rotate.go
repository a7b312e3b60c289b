package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
)

type rotateOptions struct {
	repo      string
	add       []string
	remove    []string
	threshold int
	json      bool
}

func newKeysRotateCommand(env *cli.Env) *cobra.Command {
	var opts rotateOptions
	c := &cobra.Command{
		Use:   "rotate root|targets|online --repo DIR",
		Short: "Exchange the keys of a repository",
		Long: `Exchanges the keys that may sign for a role of the repository in DIR: root, targets (the list of
images) or online (snapshot and timestamp). Without other flags a new key takes the place of the
one there is: it is made in the keys directory as ROLE-2, ROLE-3 and so on. With --add, --remove
or --threshold exactly that is done, which is how a role gets several keys of which some must
sign together.

The root key has to be in the keys directory, and the role's old key should be: both sign what
is current, so that devices read on all the while. If the old key is lost, those that ask at that
very moment get an error, and have to ask again. An old root key cannot be lost: without it no
device would follow.

Devices in the field need nothing new: they follow from the root they have. root.json in the
keys directory is replaced, so that new images begin with the new root. The file of the old key
stays; it is worth nothing any more, but for roots before.`,
		Example: `  eos keys rotate online --repo repo
  eos keys rotate targets --repo repo --add anna.pub --add ben.pub --threshold 2`,
		Args:        cobra.ExactArgs(1),
		ValidArgs:   []string{repository.RoleRoot, repository.RoleTargets, repository.RoleOnline},
		Annotations: map[string]string{exitAnnotation: "4,5,6"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.repo == "" {
				return cli.Refuse(cli.Usage, errors.New("no repository given"), "name its folder with --repo")
			}
			if !slices.Contains(cmd.ValidArgs, args[0]) {
				return cli.Refuse(cli.Usage, fmt.Errorf("role %q: no such role", args[0]), "roles are "+strings.Join(cmd.ValidArgs, ", "))
			}
			if cmd.Flags().Changed("threshold") && opts.threshold < 1 {
				return cli.Refuse(cli.Usage, fmt.Errorf("threshold %d", opts.threshold), "at least one key has to sign")
			}
			keys, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			return explainPublish(runRotate(cmd.Context(), env, keys, args[0], opts))
		},
	}
	f := c.Flags()
	f.StringVar(&opts.repo, "repo", "", "`place` of the repository, a folder or s3://BUCKET/PREFIX")
	f.StringArrayVar(&opts.add, "add", nil, "public key `file` to let sign; may be repeated")
	f.StringArrayVar(&opts.remove, "remove", nil, "`key`, by id or file, that may sign no longer; may be repeated")
	f.IntVar(&opts.threshold, "threshold", 0, "`number` of keys that have to sign together")
	f.BoolVar(&opts.json, "json", false, "print JSON")
	_ = c.MarkFlagDirname("repo")
	_ = c.MarkFlagFilename("add", "pub")
	return c
}

// rotated is what eos keys rotate --json prints.
type rotated struct {
	*repository.Rotated
	Role    string   `json:"role"`
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	NewKey  string   `json:"new_key,omitempty"` // file of the key that was made
}

func runRotate(ctx context.Context, env *cli.Env, dir, role string, opts rotateOptions) error {
	store, err := storeAt(opts.repo)
	if err != nil {
		return err
	}
	repo, err := repository.Open(ctx, store)
	if err != nil {
		return err
	}
	ids, _, err := repo.RoleKeys(ctx, role)
	if err != nil {
		return err
	}
	rot, name, err := rotation(dir, role, ids, opts)
	if err != nil {
		return err
	}
	out := rotated{Role: role, Added: []string{}, Removed: rot.Remove}
	if name != "" {
		out.NewKey = filepath.Join(dir, name+".key")
	}
	for _, k := range rot.Add {
		out.Added = append(out.Added, key.ID(k))
	}
	ring, err := repository.LoadKeyring(dir)
	if err != nil {
		return err
	}
	if out.Rotated, err = repo.Rotate(ctx, rot, repository.PublishOptions{Keys: ring}); err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, repository.RootFile), out.RootFile, 0o644); err != nil {
		return fmt.Errorf("the repository has its new root, but new images would not: write root metadata: %w", err)
	}
	if out.Gap {
		fmt.Fprintln(env.Stderr, "warning: the old key was not at hand: devices that asked just now got an error and will ask again")
	}
	if opts.json {
		return cli.PrintJSON(env.Stdout, out)
	}
	for _, id := range out.Added {
		fmt.Fprintf(env.Stdout, "key %s signs for %s from now on\n", id, role)
	}
	for _, id := range out.Removed {
		fmt.Fprintf(env.Stdout, "key %s does not any more\n", id)
	}
	_, err = fmt.Fprintf(env.Stdout, "root version %d, good until %s\n", out.Versions.Root, out.Root.Format(time.DateOnly))
	return err
}

// rotation makes out what is to be done, and makes the new key if one is needed; name is its
// name.
func rotation(dir, role string, ids []string, opts rotateOptions) (rot repository.Rotation, name string, err error) {
	rot = repository.Rotation{Role: role, Threshold: opts.threshold, Remove: []string{}}
	if len(opts.add) == 0 && len(opts.remove) == 0 && opts.threshold == 0 {
		if len(ids) != 1 {
			return rot, "", cli.Refuse(cli.Usage, fmt.Errorf("role %s has %d keys: %s", role, len(ids), strings.Join(ids, ", ")), "say which one goes with --remove, and which one comes with --add")
		}
		pub, err := nextKey(dir, role)
		rot.Add, rot.Remove = []ed25519.PublicKey{pub.Key}, ids
		return rot, pub.Name, err
	}
	for _, file := range opts.add {
		pub, err := readPublic(file)
		if err != nil {
			return rot, "", err
		}
		rot.Add = append(rot.Add, pub.Key)
	}
	for _, k := range opts.remove {
		if !slices.Contains(ids, k) {
			pub, err := readPublic(k)
			if err != nil {
				return rot, "", cli.Refuse(cli.Usage, fmt.Errorf("key %s has not the role %s: %w", k, role, err), "it has "+strings.Join(ids, ", "))
			}
			k = pub.ID
		}
		rot.Remove = append(rot.Remove, k)
	}
	return rot, "", nil
}

func readPublic(file string) (key.Public, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return key.Public{}, fmt.Errorf("read public key: %w", err)
	}
	pub, err := key.ParsePublic(b)
	if err != nil {
		return key.Public{}, fmt.Errorf("%s: %w", file, err)
	}
	return pub, nil
}

// nextKey makes the key that comes after the others of a role.
func nextKey(dir, role string) (key.Public, error) {
	all, err := key.LoadPublicDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", repository.ErrNoKeys, err)
	}
	if err != nil {
		return key.Public{}, err
	}
	last := 1
	for _, k := range all {
		number, ok := strings.CutPrefix(k.Name, role+"-")
		if n, err := strconv.Atoi(number); ok && err == nil {
			last = max(last, n)
		}
	}
	name := fmt.Sprintf("%s-%d", role, last+1)
	if err := key.Generate(dir, name); err != nil {
		return key.Public{}, err
	}
	pub, err := readPublic(filepath.Join(dir, name+".pub"))
	pub.Name = name
	return pub, err
}
