package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/image"
	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/oci"
	"github.com/OSInside/eos/internal/sigstore"
)

// appKey is the name of the key that signs applications, unless another is given.
const appKey = "app"

func newAppCommand(env *cli.Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "app",
		Short: "Build, sign and push applications, which are containers",
		Long: `An application is the image of a container, made of Debian packages as a container description
says: whole, or as a delta, which has only what its base does not have. docs/apps.md explains
descriptions, signatures, and how a device is told whose it takes.`,
		Example: `  eos app build apps/lynx.yaml
  eos app list`,
		Args: cobra.NoArgs,
		RunE: needCommand,
	}
	c.AddCommand(newAppBuildCommand(env), newAppListCommand(env), newAppPolicyCommand(env), newAppVerifyCommand(env))
	return c
}

type appBuildOptions struct {
	outDir, archive, push, key string

	insecure, refresh, json bool
}

func newAppBuildCommand(env *cli.Env) *cobra.Command {
	var o appBuildOptions
	c := &cobra.Command{
		Use:   "build FILE",
		Short: "Build an application and sign it",
		Long: `Builds what a container description says and signs it: as the archive NAME.oci.tar that podman
load takes, its signature inside, or with --push in a registry, its signature beside it as
podman looks for it. With --push there is an archive only if --output or --archive asks for it.

A description with a base makes a delta: only what differs from the base is in it. Packages are
fetched once and kept in the cache; --refresh fetches those of today. The same description,
packages and key give the same bytes. Times are SOURCE_DATE_EPOCH, or else that of the newest
file in a package.

A registry on another machine is talked to over https; --insecure allows http. Credentials come
from where podman login and docker login put them.`,
		Example: `  eos app build apps/lynx.yaml
  eos app build apps/lynx.yaml --push registry.example.com/apps/lynx:1.0`,
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{exitAnnotation: "4,7"},
		RunE:        func(cmd *cobra.Command, args []string) error { return runAppBuild(cmd, env, args[0], &o) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	f := c.Flags()
	f.StringVarP(&o.outDir, "output", "o", "out", "`folder` for the archive")
	f.StringVar(&o.archive, "archive", "", "`file` of the archive (default NAME.oci.tar in that folder)")
	f.StringVar(&o.push, "push", "", "push it as `REGISTRY/NAME:TAG` (default tag latest)")
	f.StringVar(&o.key, "key", appKey, "`name` of the key that signs, or its .key file")
	f.BoolVar(&o.insecure, "insecure", false, "with --push, allow http to another machine")
	f.BoolVar(&o.refresh, "refresh", false, "fetch the packages again")
	f.BoolVar(&o.json, "json", false, "print the result, and progress on standard error, as JSON")
	_ = c.MarkFlagDirname("output")
	_ = c.MarkFlagFilename("archive", "tar")
	return c
}

// appResult is what eos app build --json prints.
type appResult struct {
	Name    string         `json:"name"`
	ID      string         `json:"id"`             // of the image
	Base    string         `json:"base,omitempty"` // of a delta
	BaseID  string         `json:"base_id,omitempty"`
	Key     string         `json:"key"` // its id
	Outputs []image.Output `json:"outputs"`
	Pushed  string         `json:"pushed,omitempty"` // name in the registry
	Digest  string         `json:"digest,omitempty"` // of what was pushed
}

func runAppBuild(cmd *cobra.Command, env *cli.Env, file string, o *appBuildOptions) error {
	var to imagename.Target
	if o.push != "" {
		var err error
		if to, err = imagename.Tagged(o.push); err != nil {
			return cli.Refuse(cli.Usage, fmt.Errorf("--push: %w", err), "")
		}
	} else if o.insecure {
		return cli.Usagef("--insecure without --push")
	}
	if o.archive != "" && cmd.Flags().Changed("output") {
		return cli.Usagef("--archive and --output together")
	}
	spec, err := imagespec.LoadContainer(file)
	if err != nil {
		return err
	}
	if err := spec.Supported(); err != nil {
		return cli.Refuse(cli.Refused, err, "")
	}
	dir, err := keysDir(cmd, env)
	if err != nil {
		return err
	}
	signer, err := key.LoadPrivate(keyFile(dir, o.key, ".key"))
	if err != nil {
		return cli.Refuse(cli.Failure, err, "make one with: eos keys new "+appKey)
	}
	began := time.Now()
	progress := cli.NewProgress(env, o.json)
	img, err := image.Container(cmd.Context(), image.ContainerOptions{Spec: spec, Refresh: o.refresh, Progress: progress})
	if err != nil {
		return err
	}
	r, err := describeApp(spec, img, signer)
	if err != nil {
		return err
	}
	if o.push == "" || o.archive != "" || cmd.Flags().Changed("output") {
		path := o.archive
		if path == "" {
			path = filepath.Join(o.outDir, spec.Name+".oci.tar")
		}
		out, err := writeApp(path, spec.Name, img, signer)
		if err != nil {
			return err
		}
		r.Outputs = append(r.Outputs, out)
	}
	if o.push != "" {
		r.Pushed = to.String()
		if r.Digest, err = pushApp(cmd.Context(), img, to, signer, o.insecure); err != nil {
			return err
		}
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, r)
	}
	for _, out := range r.Outputs {
		fmt.Fprintf(env.Stdout, "%-9s %9s  %s\n", out.Kind, humanize.IBytes(uint64(out.Size)), out.Path)
	}
	if r.Pushed != "" {
		fmt.Fprintf(env.Stdout, "%-9s %9s  %s@%s\n", "pushed", "", r.Pushed, r.Digest)
	}
	what := spec.Name
	if r.Base != "" {
		what += ", a delta on " + r.Base + " " + short(r.BaseID) + ","
	}
	_, err = fmt.Fprintf(env.Stdout, "built %s as image %s, signed by key %s, in %s\n", what, short(r.ID), r.Key, time.Since(began).Round(100*time.Millisecond))
	return err
}

// short is what podman shows of an image id.
func short(id string) string { return id[len("sha256:"):][:12] }

// keyFile returns where a half of a key is.
func keyFile(dir, name, ext string) string {
	if filepath.Ext(name) == ext {
		return name
	}
	return filepath.Join(dir, name+ext)
}

func describeApp(s *imagespec.ContainerSpec, img v1.Image, signer key.Private) (*appResult, error) {
	id, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	labels := config.Config.Labels
	return &appResult{
		Name: s.Name, ID: id.String(), Base: labels[image.LabelBase], BaseID: labels[image.LabelBaseDigest],
		Key: signer.ID, Outputs: []image.Output{},
	}, nil
}

// writeApp writes an archive, signed under the name that it has when it is loaded.
func writeApp(path, short string, img v1.Image, signer key.Private) (image.Output, error) {
	name, err := imagename.Local(short)
	if err != nil {
		return image.Output{}, err
	}
	sig, err := signApp(img, name, signer)
	if err != nil {
		return image.Output{}, err
	}
	return image.WriteOutput("oci", path, func(w io.Writer) error { return oci.WriteSignedArchive(w, img, name, sig) })
}

func signApp(img v1.Image, name string, signer key.Private) (sigstore.Signature, error) {
	digest, err := img.Digest()
	if err != nil {
		return sigstore.Signature{}, err
	}
	return sigstore.Sign(signer, name, digest.String())
}

// pushApp pushes an image, compressed, and returns its digest.
func pushApp(ctx context.Context, img v1.Image, to imagename.Target, signer key.Private, insecure bool) (string, error) {
	dir, err := os.MkdirTemp("", "eos-push-")
	if err != nil {
		return "", fmt.Errorf("compress container image: %w", err)
	}
	defer os.RemoveAll(dir)
	packed, err := oci.Compress(img, dir)
	if err != nil {
		return "", err
	}
	sig, err := signApp(packed, to.String(), signer)
	if err != nil {
		return "", err
	}
	var unreachable *net.OpError
	if err := oci.Push(ctx, packed, to, sig, insecure); errors.As(err, &unreachable) {
		return "", cli.Refuse(cli.Unreachable, err, "is the network up, and the name of the registry right?")
	} else if err != nil {
		return "", err
	}
	digest, err := packed.Digest()
	return digest.String(), err
}
