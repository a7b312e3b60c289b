package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

func newStopCommand(env *cli.Env) *cobra.Command {
	var o struct {
		machineFlags
		powerCut bool
		wait     time.Duration
	}
	c := &cobra.Command{
		Use:   "stop",
		Short: "Stop a running machine",
		Long: `Presses the power button of a machine and waits until it is off. With --power-cut it is off at
once, as when the plug is pulled. Its state stays in either case.

Without --name it is the only machine that runs.`,
		Example: `  eos stop
  eos stop --name test --power-cut`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{exitAnnotation: "3"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := o.host(env)
			if err != nil {
				return err
			}
			m, err := host.Find(o.name)
			if err != nil {
				return err
			}
			if o.powerCut {
				return refuseMachine(m.PowerCut(cmd.Context()))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.wait)
			defer cancel()
			return refuseMachine(m.Stop(ctx))
		},
	}
	f := c.Flags()
	o.add(c, "`name` of the machine")
	f.BoolVar(&o.powerCut, "power-cut", false, "do not ask the machine, cut its power")
	f.DurationVar(&o.wait, "wait", 2*time.Minute, "how long to wait until it is off, as `duration`")
	_ = c.RegisterFlagCompletionFunc("name", completeMachines(&o.machineFlags, env))
	return c
}
