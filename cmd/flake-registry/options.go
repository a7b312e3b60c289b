package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/OSInside/eos/internal/cli"
)

// options are the command line.
type options struct {
	setup, activate, wipe string

	stop, start, status, grow, recoveryKey, unlock, restoreHeader, repair, confirm bool

	yes, json, reseal, discardJournal bool
}

const usage = `Usage: flake-registry ACTION [OPTION...]

The registry is the one place a device writes to. The built-in one is made and encrypted at
the first boot; another disk can take its place for flakes.

Actions, one of:
  --status            say what state the registry is in, and what to do about it
  --setup DEVICE      make a registry on DEVICE; all data on it is lost
  --activate DEVICE   use the registry on DEVICE for flakes, now and at every later boot;
                      the built-in registry's device goes back to that
  --stop              take the registry out of use until --start or the next boot
  --start             open the registry, as every boot does; at the first boot make it
  --grow              grow the built-in registry into what its disk has become
  --recovery-key      enrol a new recovery key in place of the old one, and show it once
  --unlock            open the registry with the recovery key, read from the terminal or
                      standard input
  --restore-header    put back the copy of the registry's header from the boot partition
  --repair            repair the file system of a registry that does not mount
  --confirm           in a trial, fail if this image cannot open the registry that the one
                      before it could (used by systemd)

Options:
  --yes               do not ask; needed where there is no terminal
  --wipe DEVICE       with --setup: DEVICE is a registry already, and is to be lost
  --reseal            with --unlock: seal the registry to this machine's TPM as it is now
  --discard-journal   with --repair: go on without changes that cannot be replayed
  --json              print results as JSON

Exit status: 0 done, 1 error, 2 usage, 4 refused, 5 the registry is in use,
11 --status: the registry cannot be used (degraded).

Examples:
  flake-registry --status
  flake-registry --setup /dev/disk/by-id/usb-X --yes && flake-registry --activate /dev/disk/by-id/usb-X
`

// parse reads the command line. Help is asked for when the error is flag.ErrHelp.
func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("flake-registry", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for _, f := range []struct {
		p    *bool
		name string
	}{
		{&o.stop, "stop"}, {&o.start, "start"}, {&o.status, "status"}, {&o.grow, "grow"},
		{&o.recoveryKey, "recovery-key"}, {&o.unlock, "unlock"}, {&o.restoreHeader, "restore-header"},
		{&o.repair, "repair"}, {&o.confirm, "confirm"},
		{&o.yes, "yes"}, {&o.json, "json"}, {&o.reseal, "reseal"}, {&o.discardJournal, "discard-journal"},
	} {
		fs.BoolVar(f.p, f.name, false, "")
	}
	fs.StringVar(&o.setup, "setup", "", "")
	fs.StringVar(&o.activate, "activate", "", "")
	fs.StringVar(&o.wipe, "wipe", "", "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, cli.Refuse(cli.Usage, err, "flake-registry --help lists the options")
	}
	if fs.NArg() > 0 {
		return nil, cli.Refuse(cli.Usage, fmt.Errorf("unexpected argument %q", fs.Arg(0)), "flake-registry --help lists the options")
	}
	return o, o.consistent()
}

// action is the one thing to do.
func (o *options) action() string {
	return cli.Action([]cli.Switch{
		{On: o.setup != "", Name: "setup"}, {On: o.activate != "", Name: "activate"}, {On: o.stop, Name: "stop"},
		{On: o.start, Name: "start"}, {On: o.status, Name: "status"}, {On: o.grow, Name: "grow"},
		{On: o.recoveryKey, Name: "recovery-key"}, {On: o.unlock, Name: "unlock"},
		{On: o.restoreHeader, Name: "restore-header"}, {On: o.repair, Name: "repair"}, {On: o.confirm, Name: "confirm"},
	})
}

// consistent refuses combinations that mean nothing, instead of guessing.
func (o *options) consistent() error {
	a := o.action()
	if a == "" {
		return cli.Refuse(cli.Usage, errors.New("nothing to do: give one of --status, --setup, --activate, --stop, --start, --grow, --recovery-key, --unlock, --restore-header, --repair"),
			"flake-registry --help lists the options")
	}
	return cli.Consistent("flake-registry", a, []cli.Switch{
		{On: o.yes, Name: "yes", With: "setup restore-header repair"},
		{On: o.wipe != "", Name: "wipe", With: "setup"},
		{On: o.reseal, Name: "reseal", With: "unlock"},
		{On: o.discardJournal, Name: "discard-journal", With: "repair"},
	})
}
