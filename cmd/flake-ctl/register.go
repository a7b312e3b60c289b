package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
	"github.com/OSInside/eos/internal/flake/unit"
)

// registerOptions are the command line of register.
type registerOptions struct {
	registration.Options
	info, force bool
}

func (a *app) register() *cobra.Command {
	var o registerOptions
	c := &cobra.Command{
		Use: "register", Short: "Make a command of a container", Args: cobra.NoArgs,
		Long: `Registers a container as a command: a link to the launcher, and a file that says how it is
started. All of it is there or nothing, also when this is killed.

With --unit the command is a service besides, which starts with the system.

The container need not be there yet, and podman is not called.`,
		Example: `  flake-ctl podman register --container localhost/lynx --app /usr/share/flakes/bin/lynx \
      --target /usr/bin/lynx --opt '\--interactive' '\--tty' '\--volume %HOME:/home'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.info {
				return a.info(cmd.Context(), o.Image)
			}
			return a.runRegister(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Image, "container", "", "`name` of the container")
	f.StringVar(&o.App, "app", "", "`path` of the command, absolute")
	f.BoolVar(&o.info, "info", false, "print the registration that comes with the container, and register nothing")
	f.StringVar(&o.Target, "target", "", "`path` of the program in the container, if it is another; /: what the container says")
	f.StringVar(&o.Base, "base", "", "`name` of the container below it")
	f.BoolVar(&o.CheckHost, "check-host-dependencies", false, "take from the host what the container names")
	f.StringArrayVar(&o.Layers, "layer", nil, "`name` of a container between the two; several: in their order")
	f.StringArrayVar(&o.Tar, "include-tar", nil, "`archive` of the host to unpack in the container")
	f.StringArrayVar(&o.Path, "include-path", nil, "`path` of the host to copy into the container")
	f.StringArrayVar(&o.Podman, "opt", nil, "`option` of podman, a backslash before its -: '\\--net host' (default -ti)")
	f.BoolVar(&o.Resume, "resume", false, "the container stays, and is entered by each call")
	f.BoolVar(&o.Attach, "attach", false, "the container stays, and further calls attach to it")
	f.StringVar(&o.Unit, "unit", "", "`name` of a service of systemd whose program the command is besides")
	f.BoolVar(&o.Notify, "unit-notify", false, "the service is ready when the application says so (sd_notify), not when its container runs")
	f.BoolVar(&o.force, "force", false, "replace a flake; never any other file")
	_ = c.MarkFlagRequired("container")
	c.MarkFlagsOneRequired("app", "info")
	c.MarkFlagsMutuallyExclusive("app", "info")
	c.MarkFlagsMutuallyExclusive("resume", "attach", "unit")
	noFiles := cobra.FixedCompletions(nil, cobra.ShellCompDirectiveNoFileComp)
	for _, name := range []string{"container", "base", "layer", "opt", "target", "unit"} {
		_ = c.RegisterFlagCompletionFunc(name, noFiles)
	}
	return c
}

func (a *app) runRegister(ctx context.Context, o registerOptions) error {
	for i, opt := range o.Podman {
		o.Podman[i] = strings.TrimPrefix(opt, `\`)
	}
	o.Unit = strings.TrimSuffix(o.Unit, unit.File(""))
	if err := o.Check(); err != nil {
		return err
	}
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	o.RunAs, o.User = w.runas, a.at.system.User
	if o.Unit != "" {
		if err := a.at.system.Free(w.dir, o.Unit); err != nil {
			return fmt.Errorf("register flake %s: %w", o.Name(), err)
		}
	}
	shipped := filepath.Join(w.shipped, o.Name()+".yaml")
	if _, err := os.Stat(shipped); err == nil && w.shipped != "" && w.shipped != w.dir && !o.force {
		return cli.Refuse(cli.Refused, fmt.Errorf("register flake %s: the image has one of this name: %s", o.Name(), shipped), "--force puts this one before it")
	}
	s, err := a.open(ctx, w)
	if err != nil {
		return err
	}
	if err = s.Add(o.Options, o.force); err == nil {
		err = a.link(ctx, w)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	a.remark(w, o)
	if o.force {
		a.stays(ctx, w, o)
	}
	return nil
}

// remark says what is not as one may expect of a flake that was registered.
func (a *app) remark(w where, o registerOptions) {
	name := o.Name()
	files, err := flake.ReadFiles(w.dir, name)
	if err == nil && len(files) > 1 {
		a.note("%d files in %s change this flake", len(files)-1, filepath.Join(w.dir, name+".d"))
	}
	if w.dir == w.shipped {
		a.note("it becomes part of the image in %s; its container has to be in the image too", w.dir)
	}
	if o.Unit != "" && a.at.system.Running {
		a.note("the service %s starts with the system; systemctl start %[1]s starts it now", unit.File(o.Unit))
	}
	if _, err = flake.Parse(name, files); err != nil {
		a.note("it is registered, but will not start: %v", err)
	}
}

// info prints the file of registration that a container has in its root.
func (a *app) info(ctx context.Context, image string) (err error) {
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	out, err := command.Output(ctx, a.podman(w, "image", "mount", image))
	if err != nil {
		return fmt.Errorf("mount container %s: %w", image, err)
	}
	defer func() {
		err = errors.Join(err, command.Run(context.WithoutCancel(ctx), a.podman(w, "image", "umount", image)))
	}()
	// The container is not trusted: a link in it leads nowhere outside.
	root, err := os.OpenRoot(strings.TrimSpace(string(out)))
	if err != nil {
		return fmt.Errorf("look into container %s: %w", image, err)
	}
	defer root.Close()
	base := path.Base(image)
	plain, _, _ := strings.Cut(base, ":")
	for _, name := range []string{base, plain} {
		if text, err := root.ReadFile(name + ".yaml"); err == nil {
			_, err = a.env.Stdout.Write(text)
			return err
		}
	}
	return fmt.Errorf("look into container %s: it has no file /%s.yaml", image, base)
}
