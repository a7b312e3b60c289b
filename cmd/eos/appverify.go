package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/image"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/oci"
	"github.com/OSInside/eos/internal/sigstore"
)

func newAppVerifyCommand(env *cli.Env) *cobra.Command {
	var names []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check the signature of an application in an archive",
		Long: `Reads the archive that eos app build wrote, whole, and checks that one of the keys has signed all
that podman takes from it: its name, its manifest, and by their sums its configuration and
layers. An archive that has anything else in it does not verify.`,
		Example: `  eos app verify out/lynx.oci.tar
  eos app verify lynx.oci.tar --key app.pub`,
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{exitAnnotation: "6"},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			var keys []key.Public
			for _, name := range names {
				k, err := key.LoadPublic(keyFile(dir, name, ".pub"))
				if err != nil {
					return cli.Refuse(cli.Failure, err, "name a key of the keys directory, or a .pub file, with --key")
				}
				keys = append(keys, k)
			}
			v, err := oci.VerifyArchive(args[0], keys)
			if errors.Is(err, sigstore.ErrUnverified) {
				return cli.Refuse(cli.Unverified, err, "do not load it")
			} else if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(env.Stdout, struct {
					Name   string `json:"name"`
					ID     string `json:"id"`
					Digest string `json:"digest"`
					Base   string `json:"base,omitempty"`
					BaseID string `json:"base_id,omitempty"`
					Key    string `json:"key"`
				}{v.Name, v.ID, v.Digest, v.Labels[image.LabelBase], v.Labels[image.LabelBaseDigest], v.Key.ID})
			}
			_, err = fmt.Fprintf(env.Stdout, "%s is %s, image %s, signed by key %s (%s)\n", args[0], v.Name, short(v.ID), v.Key.Name, v.Key.ID)
			return err
		},
	}
	c.Flags().StringSliceVar(&names, "key", []string{appKey}, "`key` to accept: a name in the keys directory or a .pub file; may be repeated")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
