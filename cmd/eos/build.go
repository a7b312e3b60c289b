package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/image"
	"github.com/OSInside/eos/internal/imagespec"
)

type buildOptions struct {
	file    string
	profile string
	outDir  string
	binDir  string
	version string
	sshKey  string
	dev     bool
	refresh bool
	fresh   bool
	json    bool
}

func newBuildCommand(env *cli.Env) *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build",
		Short: "Build an image from its description",
		Long: `Builds the image that an image description says, signed and ready for a disk.

Packages are fetched once and kept in the cache; --refresh fetches those of today. The same
description, packages, programs and keys give the same slot image, byte for byte. Times in
the image are SOURCE_DATE_EPOCH, or else that of the newest file in a package.

Without --dev nobody can log in to the image but who the description names. With it, root
has a login on the console and accepts the ssh key in ~/.ssh, or that of --ssh-key, and the
one that eos ssh uses: ssh_ed25519 in the keys folder, which is made if it is not there.

A container description (kind: container) makes NAME.oci.tar, which podman load takes; eos app
build makes a signed one.`,
		Example: `  eos build -f images/eos.yaml -o out
  eos build -f images/minimal.yaml --profile Static --dev
  eos build -f apps/basesystem.yaml`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "4"},
		RunE:        func(cmd *cobra.Command, _ []string) error { return runBuild(cmd, env, &o) },
	}
	f := c.Flags()
	f.StringVarP(&o.file, "file", "f", "", "image description, a YAML `file`")
	f.StringVar(&o.profile, "profile", "", "`name` of a profile of the description (default AB)")
	f.StringVarP(&o.outDir, "output", "o", "out", "`folder` for what is built")
	f.StringVar(&o.binDir, "bin", "", "`folder` with eos-init and os-update (default: that of eos)")
	f.StringVar(&o.version, "version", "", "`version` instead of the description's")
	f.StringVar(&o.sshKey, "ssh-key", "", "public key `file` for root, with --dev (default: those in ~/.ssh)")
	f.BoolVar(&o.dev, "dev", false, "an image to develop with: console login and ssh key for root")
	f.BoolVar(&o.refresh, "refresh", false, "fetch the packages again")
	f.BoolVar(&o.fresh, "fresh", false, "make the file system again, though the cache has it")
	f.BoolVar(&o.json, "json", false, "print the result, and progress on standard error, as JSON")
	_ = c.MarkFlagRequired("file")
	_ = c.MarkFlagFilename("file", "yaml", "yml")
	_ = c.MarkFlagFilename("ssh-key", "pub")
	_ = c.RegisterFlagCompletionFunc("profile", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		text, err := os.ReadFile(o.file)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return imagespec.Profiles(text), cobra.ShellCompDirectiveNoFileComp
	})
	_ = c.MarkFlagDirname("output")
	_ = c.MarkFlagDirname("bin")
	return c
}

func runBuild(cmd *cobra.Command, env *cli.Env, o *buildOptions) error {
	// What is wrong with the file is said when it is read in full.
	if text, err := os.ReadFile(o.file); err == nil && imagespec.KindOf(text) == imagespec.KindContainer {
		return runBuildContainer(cmd, env, o)
	}
	spec, err := imagespec.Load(o.file, o.profile)
	if err != nil {
		return err
	}
	if err := spec.Supported(); err != nil {
		return cli.Refuse(cli.Refused, err, "")
	}
	if o.version != "" {
		if err := spec.SetVersion(o.version); err != nil {
			return cli.Refuse(cli.Usage, err, "")
		}
	}
	spec.Dev = spec.Dev || o.dev
	keys, err := keysDir(cmd, env)
	if err != nil {
		return err
	}
	var sshKeys []string
	if spec.Dev {
		if sshKeys, err = callerKeys(env, keys, o.sshKey); err != nil {
			return err
		}
	} else if o.sshKey != "" {
		return cli.Refuse(cli.Usage, errors.New("--ssh-key without --dev"), "name keys of a device in the image description, users")
	}
	began := time.Now()
	r, err := image.Build(cmd.Context(), image.Options{
		Spec: spec, KeysDir: keys, BinDir: o.binDir, OutDir: o.outDir, SSHKeys: sshKeys,
		Refresh: o.refresh, Fresh: o.fresh, Progress: cli.NewProgress(env, o.json),
	})
	if err != nil {
		return err
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, struct {
			BuildID string         `json:"build_id"`
			Outputs []image.Output `json:"outputs"`
			Timings []image.Timing `json:"timings"`
		}{r.Manifest.BuildID, r.Outputs, r.Timings})
	}
	for _, out := range r.Outputs {
		fmt.Fprintf(env.Stdout, "%-9s %9s  %s\n", out.Kind, humanize.IBytes(uint64(out.Size)), out.Path)
	}
	_, err = fmt.Fprintf(env.Stdout, "built %s %s, build id %s, in %s\n", spec.Name, spec.Version,
		r.Manifest.BuildID[:16], time.Since(began).Round(100*time.Millisecond))
	return err
}

// runBuildContainer builds what a container description says.
func runBuildContainer(cmd *cobra.Command, env *cli.Env, o *buildOptions) error {
	for _, name := range []string{"profile", "version", "ssh-key", "dev", "bin", "fresh"} {
		if cmd.Flags().Changed(name) {
			return cli.Refuse(cli.Usage, fmt.Errorf("--%s with a container description", name), "it is for images of a whole system")
		}
	}
	spec, err := imagespec.LoadContainer(o.file)
	if err != nil {
		return err
	}
	if err := spec.Supported(); err != nil {
		return cli.Refuse(cli.Refused, err, "")
	}
	began := time.Now()
	out, err := image.BuildContainer(cmd.Context(), image.ContainerOptions{
		Spec: spec, OutDir: o.outDir, Refresh: o.refresh, Progress: cli.NewProgress(env, o.json),
	})
	if err != nil {
		return err
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, struct {
			Outputs []image.Output `json:"outputs"`
		}{[]image.Output{out}})
	}
	fmt.Fprintf(env.Stdout, "%-9s %9s  %s\n", out.Kind, humanize.IBytes(uint64(out.Size)), out.Path)
	_, err = fmt.Fprintf(env.Stdout, "built container %s in %s\n", spec.Name, time.Since(began).Round(100*time.Millisecond))
	return err
}

// callerKeys returns the public ssh keys of whoever builds, the one that eos ssh uses first.
func callerKeys(env *cli.Env, keysDir, file string) ([]string, error) {
	paths := []string{file}
	if file == "" {
		home := env.Getenv("HOME")
		paths = nil
		for _, name := range []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"} {
			paths = append(paths, filepath.Join(home, ".ssh", name))
		}
	}
	own, err := devKey(keysDir)
	if err != nil {
		return nil, err
	}
	keys := []string{own}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && file == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read ssh key: %w", err)
		}
		line := strings.TrimSpace(string(text))
		if strings.Contains(line, "\n") || strings.Contains(line, "PRIVATE") || len(strings.Fields(line)) < 2 {
			return nil, fmt.Errorf("read ssh key: %s is not one public key", path)
		}
		keys = append(keys, line)
	}
	return keys, nil
}
