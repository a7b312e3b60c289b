package main

import (
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

func newConsoleCommand(env *cli.Env) *cobra.Command {
	var o machineFlags
	c := &cobra.Command{
		Use:   "console",
		Short: "Open the console of a running machine",
		Long: `Makes the terminal the serial console of a machine that eos run has started, after the last
lines of what was on it before. Ctrl-] leaves it; the machine goes on.

Without --name it is the only machine that runs.`,
		Example: `  eos console
  eos console --name test`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "3,130"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := o.host(env)
			if err != nil {
				return err
			}
			m, err := host.Find(o.name)
			if err != nil {
				return err
			}
			if m.Running() {
				if b, err := m.Tail(10); err == nil {
					_, _ = env.Stdout.Write(b)
				}
			}
			return attach(cmd.Context(), env, m)
		},
	}
	o.add(c, "`name` of the machine")
	_ = c.RegisterFlagCompletionFunc("name", completeMachines(&o, env))
	return c
}
