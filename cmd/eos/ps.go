package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/vm"
)

// machineInfo is a machine as --json prints it.
type machineInfo struct {
	vm.Info
	Running bool   `json:"running"`
	Pid     int    `json:"pid,omitempty"`
	Folder  string `json:"folder"`
	Serial  string `json:"serial_log"`
}

func describe(m *vm.Machine) machineInfo {
	pid := m.Pid()
	return machineInfo{Info: m.Info, Running: pid != 0, Pid: pid, Folder: m.Folder, Serial: m.SerialLog()}
}

func newPsCommand(env *cli.Env) *cobra.Command {
	var o machineFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "List machines",
		Long: `Lists the machines that eos run has made, whether they run, and where their ssh port is. A
machine that does not run has only its state on disk; remove its folder to be rid of it.`,
		Example: `  eos ps
  eos ps --json | jq -r '.[] | select(.running) | .name'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			host, err := o.host(env)
			if err != nil {
				return err
			}
			all, err := host.List()
			if err != nil {
				return err
			}
			list := []machineInfo{}
			for _, m := range all {
				list = append(list, describe(m))
			}
			if asJSON {
				return cli.PrintJSON(env.Stdout, list)
			}
			return printMachines(env, list)
		},
	}
	o.add(c, "")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printMachines(env *cli.Env, list []machineInfo) error {
	if len(list) == 0 {
		fmt.Fprintf(env.Stderr, "no machines\nhint: start one with eos run\n")
		return nil
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tSSH\tMEMORY\tCPUS\tACCEL\tIMAGE")
	for _, m := range list {
		state, port := "off", "-"
		if m.Running {
			state, port = fmt.Sprintf("runs (%d)", m.Pid), fmt.Sprint(m.SSHPort)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", m.Name, state, port, humanize.IBytes(uint64(m.Memory)), m.CPUs, m.Accel, m.Image)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}
