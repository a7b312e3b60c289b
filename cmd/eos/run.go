package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/vm"
)

type runOptions struct {
	machineFlags
	detach, fresh, json bool
	diskGiven           bool
	memory, disk        string
	registry, accel     string
	cpus, sshPort, lan  int
	gpu                 bool
}

// defaultDisk leaves room for a registry; what is not written takes none.
const defaultDisk = "8G"

func newRunCommand(env *cli.Env) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [IMAGE]",
		Short: "Run an image in a virtual machine",
		Long: `Runs a raw disk image in QEMU with UEFI, a TPM, a watchdog, a second disk for registries and
the port of ssh forwarded to this host. Without IMAGE it is the newest .raw file in out.

The image itself is never written. What the machine writes is kept in its folder, under the
name of the image or --name, and is there again when the machine is run the next time. An image
that has changed since needs --fresh, which forgets that state, or another --name.

The terminal becomes the console of the machine. Ctrl-] leaves the console; the machine goes on
and eos console, eos ssh and eos stop reach it. All that it writes to the console is also in
serial.log in its folder.

With --accel auto, KVM is used where a guest makes progress with it, which is tried once per
boot of this host, else the machine is emulated in software, which is some ten times slower.`,
		Example: `  eos run
  eos run out/minimal.raw --name test --memory 2G --ssh-port 0 --detach`,
		Args:        cobra.MaximumNArgs(1),
		Annotations: map[string]string{exitAnnotation: "4,5,130"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.diskGiven = cmd.Flags().Changed("disk")
			return runMachine(cmd.Context(), env, o, args)
		},
	}
	f := c.Flags()
	o.add(c, "`name` of the machine (default: that of the image)")
	f.BoolVarP(&o.detach, "detach", "d", false, "return as soon as the machine runs, without console")
	f.BoolVar(&o.fresh, "fresh", false, "forget the state of the machine, with all data on its disks, first")
	f.BoolVar(&o.json, "json", false, "print what runs as JSON; only with --detach")
	f.StringVar(&o.memory, "memory", "1024M", "`size` of the memory")
	f.IntVar(&o.cpus, "cpus", 2, "`number` of processors")
	f.StringVar(&o.accel, "accel", "auto", "what executes the guest: `auto|kvm|tcg`")
	f.IntVar(&o.sshPort, "ssh-port", 10022, "`port` of this host that leads to ssh, 0 for any that is free")
	f.IntVar(&o.lan, "lan", 0, "`port` of a network with other machines of this host that have the same one; 0 for none")
	f.BoolVar(&o.gpu, "gpu", false, "a graphics card, for images with a kernel that knows it")
	f.StringVar(&o.disk, "disk", defaultDisk, "`size` of the disk; a registry grows into what the image leaves of it")
	f.StringVar(&o.registry, "registry-disk", "8G", "`size` of the second disk, 0 for none")
	_ = c.RegisterFlagCompletionFunc("accel", cobra.FixedCompletions([]string{"auto", "kvm", "tcg"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("name", completeMachines(&o.machineFlags, env))
	return c
}

// config turns the words of the command line into values.
func (o *runOptions) config(args []string) (c vm.Config, err error) {
	c = vm.Config{Name: o.name, CPUs: o.cpus, SSHPort: o.sshPort, LAN: o.lan, GPU: o.gpu, Fresh: o.fresh}
	for _, s := range []struct {
		flag, text string
		value      *int64
	}{
		{"memory", o.memory, &c.Memory},
		{"disk", o.disk, &c.DiskSize},
		{"registry-disk", o.registry, &c.RegistrySize},
	} {
		if *s.value, err = parseSize(s.text); err != nil {
			return c, cli.Usagef("--%s: %w", s.flag, err)
		}
	}
	if c.Accel, err = vm.ParseAccel(o.accel); err != nil {
		return c, cli.Usagef("--accel: %w", err)
	}
	if o.cpus < 1 || o.sshPort < 0 || o.sshPort > 65535 || o.lan < 0 || o.lan > 65535 {
		return c, cli.Usagef("--cpus %d --ssh-port %d --lan %d: out of range", o.cpus, o.sshPort, o.lan)
	}
	if o.json && !o.detach {
		return c, cli.Usagef("--json goes with --detach: a console is not JSON")
	}
	if len(args) == 1 {
		c.Image = args[0]
	}
	return c, nil
}

// parseSize reads a size like 1024M. K, M, G and T are powers of 1024, as QEMU has them; MB and
// the like are powers of 1000, MiB and the like are not.
func parseSize(s string) (int64, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	if last := s[len(s)-1]; last >= '0' && last <= '9' || last == 'B' || last == 'b' {
		n, err := humanize.ParseBytes(s)
		return int64(n), err
	}
	n, err := humanize.ParseBytes(s + "iB")
	if err != nil || n > 1<<50 {
		return 0, fmt.Errorf("parse size %q: want a number with K, M, G or T", s)
	}
	return int64(n), nil
}

func runMachine(ctx context.Context, env *cli.Env, o runOptions, args []string) error {
	c, err := o.config(args)
	if err != nil {
		return err
	}
	host, err := o.host(env)
	if err != nil {
		return err
	}
	if c.Image == "" && (c.Name == "" || !exists(host, c.Name)) {
		if c.Image, err = newestImage("out"); err != nil {
			return err
		}
	}
	if c.Name == "" {
		c.Name = vm.NameFor(c.Image)
	}
	if fi, err := os.Stat(c.Image); err == nil && !o.diskGiven && fi.Size() > c.DiskSize {
		c.DiskSize = 0 // as large as the image
	}
	if err := equip(ctx, env, &host); err != nil {
		return err
	}
	c.Note = notes(env)
	m, err := host.Start(ctx, c)
	if err != nil {
		return refuseMachine(err)
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, describe(m))
	}
	c.Note("machine %s runs %s: ssh port %d, %s, state in %s", m.Name, m.Image, m.SSHPort, m.Accel, m.Folder)
	if o.detach {
		return nil
	}
	if err := attach(ctx, env, m); err != nil {
		return err
	}
	if m.Running() {
		return nil
	}
	return m.Ended()
}

func exists(host vm.Host, name string) bool {
	_, err := host.Open(name)
	return err == nil
}

// newestImage returns the image that was built last.
func newestImage(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.raw"))
	if err != nil {
		return "", err
	}
	var newest string
	var when int64
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil && (newest == "" || fi.ModTime().UnixNano() > when) {
			newest, when = f, fi.ModTime().UnixNano()
		}
	}
	if newest == "" {
		return "", cli.Refuse(cli.Failure, fmt.Errorf("find image: no .raw file in %s", dir), "build one with eos build, or name one")
	}
	return newest, nil
}

// attach makes the terminal the machine's console until it is left or the machine ends.
func attach(ctx context.Context, env *cli.Env, m *vm.Machine) error {
	conn, err := m.Console(ctx)
	if err != nil {
		return refuseMachine(err)
	}
	defer conn.Close()
	note := notes(env)
	note("this is the console of %s, Ctrl-] leaves it", m.Name)
	left, err := vm.Attach(ctx, conn, env.Stdin, env.Stdout)
	switch {
	case left || errors.Is(err, context.Canceled):
		fmt.Fprintln(env.Stderr)
		note("machine %s goes on: eos console comes back, eos stop ends it", m.Name)
		if !left {
			return cli.Exit(cli.Interrupted)
		}
		return nil
	case err != nil:
		return fmt.Errorf("console of %s: %w", m.Name, err)
	}
	if err := m.Wait(ctx); err != nil {
		return err
	}
	note("machine %s is off", m.Name)
	return nil
}
