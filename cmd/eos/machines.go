package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm"
)

// machineFlags are the flags that say which machine is meant.
type machineFlags struct {
	machines string
	name     string
}

func (f *machineFlags) add(c *cobra.Command, name string) {
	c.Flags().StringVar(&f.machines, "machines", "", "`folder` of the machines (default $EOS_MACHINES or ~/.local/share/eos/machines)")
	_ = c.MarkFlagDirname("machines")
	if name != "" {
		c.Flags().StringVar(&f.name, "name", "", name)
	}
}

// host returns where the machines are. Only commands that start programs need the tools.
func (f *machineFlags) host(env *cli.Env) (vm.Host, error) {
	cache, err := toolstree.CacheDir()
	if err != nil {
		return vm.Host{}, err
	}
	dir := f.machines
	if dir == "" {
		dir = env.Getenv("EOS_MACHINES")
	}
	if dir == "" {
		data := env.Getenv("XDG_DATA_HOME")
		if data == "" {
			home := env.Getenv("HOME")
			if home == "" {
				return vm.Host{}, cli.Refuse(cli.Failure, errors.New("find machines: $HOME is not set"), "give the folder with --machines or $EOS_MACHINES")
			}
			data = filepath.Join(home, ".local", "share")
		}
		dir = filepath.Join(data, "eos", "machines")
	}
	return vm.Host{Machines: dir, Cache: cache}, nil
}

// equip opens the tools tree for the host.
func equip(ctx context.Context, env *cli.Env, host *vm.Host) error {
	tree, err := toolstree.Open(ctx, notes(env))
	if err != nil {
		return err
	}
	host.Tree = tree
	return nil
}

// notes prints lines about what goes on, or nothing where output is for programs.
func notes(env *cli.Env) func(format string, a ...any) {
	return func(format string, a ...any) {
		if !env.JSON {
			fmt.Fprintf(env.Stderr, "eos: "+format+"\n", a...)
		}
	}
}

// refuseMachine gives the errors about machines their exit codes.
func refuseMachine(err error) error {
	if errors.Is(err, vm.ErrNotRunning) {
		return cli.Refuse(cli.Nothing, err, "")
	}
	if errors.Is(err, vm.ErrRunning) {
		return cli.Refuse(cli.Locked, err, "")
	}
	if errors.Is(err, vm.ErrChanged) {
		return cli.Refuse(cli.Refused, err, "")
	}
	return err
}

// completeMachines offers the names of machines.
func completeMachines(f *machineFlags, env *cli.Env) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		host, err := f.host(env)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		all, err := host.List()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, m := range all {
			names = append(names, m.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
