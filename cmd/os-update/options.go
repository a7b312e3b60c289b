package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/update"
)

// options are the command line. The names of the seed's os-update are kept.
type options struct {
	check, apply, commit, confirm, rollback, reboot, bootFailed, status, firmware bool

	read, server, pkey, version, activate, limitRate, config string

	json, downloadOnly, allowDowngrade, dryRun bool
}

const usage = `Usage: os-update ACTION [OPTION...]

Actions, one of:
  --check             look whether there is an update
  --apply             fetch the update, write it to the other slot, start it on trial
  --commit            keep the running system (done by itself at each healthy boot)
  --rollback          make the other slot the default again
  --firmware          make the boot loader that of the running image, file by file
  --reboot            restart; with --commit or --rollback: restart after it
  --status            say what runs, what the other slot holds, what happened last
  --read NAME         write the image NAME to standard output, verified
  --confirm           in a trial, wait until the update server answers (used by systemd)
  --boot-failed       give up a boot that is not healthy (used by systemd)

Options:
  --server URL        https://HOST/PATH, ssh://USER@HOST or USER@HOST
  --pkey FILE         private key for ssh
  --read NAME         with --check and --apply: the image to look for
  --version X         --apply exactly this version, also if it failed before
  --allow-downgrade   --apply an older version than the running one; with --firmware: take
                      the boot loader of the older of two committed slots
  --activate HOW      kexec (jump into the new system) or reboot (through the firmware)
  --download-only     write and verify the update, do not start it
  --dry-run           say what --apply or --firmware would do, write nothing
  --limit-rate RATE   fetch at most RATE bytes a second, as 500KiB or 1MiB
  --config FILE       read FILE instead of ` + update.ConfigFile + `
  --json              print results as JSON

Exit status: 0 done, 1 error, 2 usage, 3 no update or nothing to do, 4 refused,
5 another run is at work, 6 verification did not succeed, 7 server unreachable,
10 an update is available.

Examples:
  os-update --check; [ $? -eq 10 ] && os-update --apply
  os-update --apply --limit-rate 1MiB
`

// parse reads the command line. Help is asked for when the error is flag.ErrHelp.
func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("os-update", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for _, f := range []struct {
		p    *bool
		name string
	}{
		{&o.check, "check"}, {&o.apply, "apply"}, {&o.commit, "commit"}, {&o.confirm, "confirm"}, {&o.rollback, "rollback"},
		{&o.reboot, "reboot"}, {&o.bootFailed, "boot-failed"}, {&o.status, "status"}, {&o.firmware, "firmware"}, {&o.json, "json"},
		{&o.downloadOnly, "download-only"}, {&o.allowDowngrade, "allow-downgrade"}, {&o.dryRun, "dry-run"},
	} {
		fs.BoolVar(f.p, f.name, false, "")
	}
	for _, f := range []struct {
		p    *string
		name string
	}{
		{&o.read, "read"}, {&o.server, "server"}, {&o.pkey, "pkey"}, {&o.version, "version"},
		{&o.activate, "activate"}, {&o.limitRate, "limit-rate"}, {&o.config, "config"},
	} {
		fs.StringVar(f.p, f.name, "", "")
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, cli.Refuse(cli.Usage, err, "os-update --help lists the options")
	}
	if fs.NArg() > 0 {
		return nil, cli.Refuse(cli.Usage, fmt.Errorf("unexpected argument %q", fs.Arg(0)), "os-update --help lists the options")
	}
	return o, o.consistent()
}

// action is the one thing to do.
func (o *options) action() string {
	a := cli.Action([]cli.Switch{
		{On: o.check, Name: "check"}, {On: o.apply, Name: "apply"}, {On: o.commit, Name: "commit"},
		{On: o.confirm, Name: "confirm"}, {On: o.rollback, Name: "rollback"}, {On: o.bootFailed, Name: "boot-failed"},
		{On: o.status, Name: "status"}, {On: o.firmware, Name: "firmware"},
	})
	switch {
	case a != "":
		return a
	case o.read != "":
		return "read"
	case o.reboot:
		return "reboot"
	}
	return ""
}

// consistent refuses combinations that mean nothing, instead of guessing.
func (o *options) consistent() error {
	a := o.action()
	bad := func(format string, args ...any) error {
		return cli.Refuse(cli.Usage, fmt.Errorf(format, args...), "os-update --help lists the options")
	}
	if a == "" {
		return bad("nothing to do: give one of --check, --apply, --commit, --rollback, --firmware, --reboot, --status, --read")
	}
	if err := cli.Consistent("os-update", a, []cli.Switch{
		{On: o.reboot, Name: "reboot", With: "reboot commit rollback"},
		{On: o.read != "", Name: "read", With: "read check apply"},
		{On: o.server != "", Name: "server", With: "read check apply"},
		{On: o.pkey != "", Name: "pkey", With: "read check apply"},
		{On: o.limitRate != "", Name: "limit-rate", With: "read apply"},
		{On: o.version != "", Name: "version", With: "check apply"},
		{On: o.allowDowngrade, Name: "allow-downgrade", With: "check apply firmware"},
		{On: o.activate != "", Name: "activate", With: "apply"},
		{On: o.downloadOnly, Name: "download-only", With: "apply"},
		{On: o.dryRun, Name: "dry-run", With: "apply firmware"},
	}); err != nil {
		return err
	}
	if o.activate != "" && o.activate != update.ActivateKexec && o.activate != update.ActivateReboot {
		return bad("--activate %q: want kexec or reboot", o.activate)
	}
	if o.downloadOnly && o.activate != "" {
		return bad("--download-only starts nothing: --activate does not go with it")
	}
	if _, err := update.ParseRate(o.limitRate); err != nil {
		return bad("--limit-rate: %w", err)
	}
	return nil
}

// override puts the command line over the configuration file.
func (o *options) override(c update.Config) (update.Config, error) {
	for _, f := range []struct {
		to   *string
		from string
	}{{&c.Server, o.server}, {&c.Name, o.read}, {&c.PKey, o.pkey}, {&c.Activate, o.activate}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if o.limitRate != "" {
		r, err := update.ParseRate(o.limitRate)
		if err != nil {
			return c, cli.Refuse(cli.Usage, err, "")
		}
		c.LimitRate = r
	}
	if err := c.Check(); err != nil {
		return c, cli.Refuse(cli.Usage, err, "")
	}
	return c, nil
}
