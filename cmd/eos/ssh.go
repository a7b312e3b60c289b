package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/vm"
)

type sshOptions struct {
	machineFlags
	user, identity string
	tty            bool
	wait           time.Duration
}

func newSSHCommand(env *cli.Env) *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use:   "ssh [-- COMMAND...]",
		Short: "Log in to a running machine",
		Long: `Logs in to a machine that eos run has started, or runs COMMAND in it. Only images built with
dev let anybody in: with the key ssh_ed25519 of the keys folder, or the caller's own.

The exit status is that of COMMAND; 255 says that the connection failed. Without --name it is
the only machine that runs.`,
		Example: `  eos ssh
  eos ssh --wait 3m -- os-update --status`,
		Annotations: map[string]string{exitAnnotation: "3,7"},
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			return runSSH(cmd.Context(), env, o, keys, args)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	o.add(c, "`name` of the machine")
	f.StringVarP(&o.user, "user", "l", "root", "`user` to log in as")
	f.StringVarP(&o.identity, "identity", "i", "", "`file` with the private key to use")
	f.BoolVarP(&o.tty, "tty", "t", false, "give COMMAND a terminal")
	f.DurationVar(&o.wait, "wait", 0, "wait for `duration` at most until the machine answers")
	_ = c.RegisterFlagCompletionFunc("name", completeMachines(&o.machineFlags, env))
	return c
}

func runSSH(ctx context.Context, env *cli.Env, o sshOptions, keys string, command []string) error {
	host, err := o.host(env)
	if err != nil {
		return err
	}
	m, err := host.Find(o.name)
	if err != nil {
		return err
	}
	if !m.Running() {
		return refuseMachine(fmt.Errorf("log in to %s: %w", m.Name, vm.ErrNotRunning))
	}
	if err := equip(ctx, env, &host); err != nil {
		return err
	}
	if o.wait > 0 {
		limit, cancel := context.WithTimeout(ctx, o.wait)
		defer cancel()
		if err := m.AwaitSSH(limit); err != nil {
			return cli.Refuse(cli.Unreachable, err, "eos console shows how far it is")
		}
	}
	login := vm.SSH{User: o.user, Identities: vm.Identities(keys, env.Getenv("HOME")), TTY: o.tty, Command: command}
	if o.identity != "" {
		login.Identities = []string{o.identity}
	}
	c := host.Tree.Command(m.SSHArgs(login)...)
	// In our own process group, unlike other programs, so that it may use the terminal.
	x := exec.Command(c.Argv[0], c.Argv[1:]...)
	x.Env = append(os.Environ(), c.Env...)
	x.Stdin, x.Stdout, x.Stderr = env.Stdin, env.Stdout, env.Stderr
	if err := x.Start(); err != nil {
		return fmt.Errorf("start ssh: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = x.Process.Signal(syscall.SIGTERM) })()
	err = x.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return cli.Exit(cli.Interrupted)
	case errors.As(err, &exit) && exit.Exited():
		return cli.Exit(cli.Code(exit.ExitCode()))
	case err != nil:
		return fmt.Errorf("run ssh: %w", err)
	}
	return nil
}
