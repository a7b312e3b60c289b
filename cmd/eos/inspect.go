package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/inspect"
	"github.com/OSInside/eos/internal/key"
)

type inspectOptions struct {
	accept     []string
	full, json bool
}

func newInspectCommand(env *cli.Env) *cobra.Command {
	var o inspectOptions
	c := &cobra.Command{
		Use:   "inspect FILE|DEVICE",
		Short: "Show what is in an image or on a disk",
		Long: `Shows what is in a disk image (raw or qcow2), a slot image or on a block device: partitions,
boot state, what each slot holds, whether its signature and hash tree verify, and why not.
Nothing is written, mounted or locked.

Signatures are compared with the keys for images in the keys directory, or with those given
with --accept. --full reads every block and compares it with the hash tree.

The exit status is 6 if something does not verify; an empty slot is nothing wrong.`,
		Example: `  eos inspect out/eos-1.0.0.raw
  eos inspect --full --accept image.pub /dev/sda`,
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{exitAnnotation: "6"},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			accepted, err := acceptedKeys(env, dir, o.accept)
			if err != nil {
				return err
			}
			report, err := inspect.File(cmd.Context(), args[0], accepted, o.full)
			if errors.Is(err, inspect.ErrUnknown) {
				return cli.Refuse(cli.Failure, err, "want a disk image (raw, qcow2), a slot image or a block device")
			} else if err != nil {
				return err
			}
			if o.json {
				err = cli.PrintJSON(env.Stdout, report)
			} else {
				err = report.Text(env.Stdout)
			}
			if err != nil || report.OK() {
				return err
			}
			return cli.Refuse(cli.Unverified, fmt.Errorf("%s: %s", args[0], count(len(report.Problems), "problem")), "")
		},
	}
	c.Flags().StringSliceVar(&o.accept, "accept", nil, "`key` to accept: a name in the keys directory or a .pub file; may be repeated")
	c.Flags().BoolVar(&o.full, "full", false, "read every block and compare it with the hash tree")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return c
}

// acceptedKeys returns the named keys, or else those of dir that sign images.
func acceptedKeys(env *cli.Env, dir string, names []string) ([]key.Public, error) {
	var keys []key.Public
	for _, name := range names {
		path := name
		if !strings.HasSuffix(name, ".pub") {
			path = filepath.Join(dir, name+".pub")
		}
		k, err := key.LoadPublic(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(names) > 0 {
		return keys, nil
	}
	all, err := key.LoadPublicDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, k := range all {
		if signsImages(k.Name) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		fmt.Fprintf(env.Stderr, "eos: no keys in %s, signatures are not checked\nhint: name keys with --accept or another folder with --keys\n", dir)
	}
	return keys, nil
}

// signsImages reports whether a key may sign images: it is not one of those with a role in
// the repository.
func signsImages(name string) bool {
	role := roleOf(name)
	return role == "" || role == "image"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
