package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
)

// keySet are the keys an installation needs, and what each of them signs.
var keySet = []struct{ name, roles string }{
	{"image", "slot manifests"},
	{"root", "repository root"},
	{"targets", "repository targets"},
	{"online", "repository snapshot, timestamp"},
	{appKey, "container images"},
}

// roleOf returns which of keySet a key is by its name, NAME or NAME-ANYTHING, or "".
func roleOf(name string) string {
	for _, k := range keySet {
		if name == k.name || strings.HasPrefix(name, k.name+"-") {
			return k.name
		}
	}
	return ""
}

func newKeysCommand(env *cli.Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and exchange signing keys",
		Long: `Signing keys are pairs of files in the keys directory: NAME.key, the private half, mode 0600,
and NAME.pub, the public half. Keys are Ed25519.`,
		Example: `  eos keys new
  eos keys list`,
		Args: cobra.NoArgs,
		RunE: needCommand,
	}
	c.AddCommand(newKeysNewCommand(env), newKeysListCommand(env), newKeysRotateCommand(env))
	return c
}

func newKeysNewCommand(env *cli.Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "new [NAME]",
		Short: "Make signing keys",
		Long: `Makes the key NAME or, without NAME, all that an installation needs:

  image    signs slot manifests; eos build uses it
  root     signs which keys a repository has; used once a year or when a key is exchanged
  targets  signs which images a repository has; eos publish uses it
  online   signs that a repository is fresh; eos publish uses it
  app      signs container images; eos app build uses it

Files that are there are never replaced: if one is in the way, nothing is made at all, except
that root.json is made where only that is missing. Keep
copies of image.key and root.key where no network reaches them: devices in the field accept
nothing that these have not signed.

With the whole set comes root.json, the first root metadata of the repository, which says what
the other keys may sign. It goes into every image and is good for a year.`,
		Example: `  eos keys new
  eos keys new image-2027 --keys /media/safe/keys`,
		Args:        cobra.MaximumNArgs(1),
		Annotations: map[string]string{exitAnnotation: "4"},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			var names []string
			for _, k := range keySet {
				names = append(names, k.name)
			}
			if len(args) == 1 {
				if err := key.ValidName(args[0]); err != nil {
					return cli.Refuse(cli.Usage, err, "")
				}
				names = args
			}
			whole := len(args) == 0
			if err := newKeys(dir, names, whole); err != nil {
				return err
			}
			return listKeys(env, dir, names, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the new keys as JSON")
	return c
}

// newKeys makes all the named pairs in dir, and the root metadata if whole is set, or
// nothing if a file is in the way.
func newKeys(dir string, names []string, whole bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make keys directory: %w", err)
	}
	var files []string
	for _, name := range names {
		files = append(files, name+".key", name+".pub")
	}
	if whole {
		files = append(files, repository.RootFile)
	}
	var there []string
	for _, file := range files {
		path := filepath.Join(dir, file)
		if _, err := os.Lstat(path); err == nil {
			there = append(there, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make keys: %w", err)
		}
	}
	if whole && len(there) == len(files)-1 && filepath.Base(there[len(there)-1]) != repository.RootFile {
		// Every key, made one by one or by a call that was cut short.
		return writeRoot(dir)
	}
	if len(there) > 0 {
		return existing(&fs.PathError{Op: "make", Path: there[0], Err: fs.ErrExist})
	}
	for _, name := range names {
		if err := key.Generate(dir, name); errors.Is(err, fs.ErrExist) {
			return existing(err) // another eos keys new at the same time
		} else if err != nil {
			return err
		}
	}
	if !whole {
		return nil
	}
	return writeRoot(dir)
}

func writeRoot(dir string) error {
	return repository.WriteRoot(dir, time.Now().Add(repository.RootLifetime))
}

func existing(err error) error {
	return cli.Refuse(cli.Refused, err, "no key was made; keys are never replaced, move the old one away or give another name or --keys")
}

func newKeysListCommand(env *cli.Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List signing keys",
		Long: `Lists the keys of the keys directory: name, id, what the key is for, and whether its private
half is here. Ids are the first 16 hexadecimal digits of the SHA-256 of the public key; images
and messages name keys by them.`,
		Example: `  eos keys list
  eos keys list --json | jq -r '.[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			return listKeys(env, dir, nil, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// keyInfo is a key as eos keys list --json prints it.
type keyInfo struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Roles   string `json:"roles,omitempty"`
	Public  string `json:"public"`            // path of the file
	Private string `json:"private,omitempty"` // path of the file; empty: not here
	Mode    string `json:"mode,omitempty"`    // of the private file
	Warning string `json:"warning,omitempty"`
}

// listKeys prints the keys of dir, or only those with the given names.
func listKeys(env *cli.Env, dir string, names []string, asJSON bool) error {
	keys, err := key.LoadPublicDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.Refuse(cli.Failure, err, "make keys with eos keys new, or give another folder with --keys or $EOS_KEYS")
	} else if err != nil {
		return err
	}
	list := []keyInfo{}
	for _, k := range keys {
		if names != nil && !slices.Contains(names, k.Name) {
			continue
		}
		list = append(list, describeKey(dir, k))
	}
	if asJSON {
		return cli.PrintJSON(env.Stdout, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(env.Stderr, "no keys in %s\nhint: make them with eos keys new\n", dir)
		return nil
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tROLES\tPRIVATE")
	for _, k := range list {
		roles, private := k.Roles, "not here"
		if roles == "" {
			roles = "-"
		}
		if k.Private != "" {
			private = k.Mode
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.Name, k.ID, roles, private)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	for _, k := range list {
		if k.Warning != "" {
			fmt.Fprintf(env.Stderr, "warning: %s\n", k.Warning)
		}
	}
	return nil
}

func describeKey(dir string, k key.Public) keyInfo {
	info := keyInfo{Name: k.Name, ID: k.ID, Public: filepath.Join(dir, k.Name+".pub")}
	for _, s := range keySet {
		if s.name == roleOf(k.Name) {
			info.Roles = s.roles
		}
	}
	path := filepath.Join(dir, k.Name+".key")
	st, err := os.Stat(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			info.Warning = err.Error()
		}
		return info
	}
	info.Private, info.Mode = path, fmt.Sprintf("%04o", st.Mode().Perm())
	switch p, err := key.LoadPrivate(path); {
	case st.Mode().Perm()&0o077 != 0:
		info.Warning = fmt.Sprintf("%s can be read by others, mode %s: chmod 0600 it", path, info.Mode)
	case errors.Is(err, fs.ErrPermission):
		info.Warning = err.Error()
	case err != nil:
		info.Warning = err.Error()
	case p.ID != k.ID:
		info.Warning = fmt.Sprintf("%s is the private half of another key, %s", path, p.ID)
	}
	return info
}
