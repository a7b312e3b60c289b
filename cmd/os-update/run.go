package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/update"
	"github.com/dustin/go-humanize"
)

// place is where the program finds things; tests give it another.
type place struct {
	machine update.Machine
	keys    string // folder with the keys that may sign slot manifests
	lock    string
	trust   update.Trust
}

// Main runs os-update on the device it is called on.
func Main(ctx context.Context, env *cli.Env) error {
	update.LimitMemory()
	return run(ctx, env, place{
		machine: &update.System{},
		keys:    "/usr/share/eos/keys",
		lock:    update.LockFile,
		trust:   update.Trust{Root: "/usr/share/eos/root.json", Cache: "/run/os-update/tuf"},
	})
}

func run(ctx context.Context, env *cli.Env, at place) error {
	o, err := parse(env.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(env.Stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	env.JSON = o.json
	u := &update.Updater{Machine: at.machine, Progress: cli.NewProgress(env, o.json), Lock: at.lock, Trust: at.trust}
	accepted, keyErr := accepted(at.keys)
	u.Accepted = accepted
	if o.status {
		st := u.Status()
		if keyErr != nil {
			st.Problems = append(st.Problems, keyErr.Error())
		}
		if o.json {
			return cli.PrintJSON(env.Stdout, st)
		}
		return st.Text(env.Stdout)
	}
	if keyErr != nil && o.action() != "boot-failed" && o.action() != "reboot" {
		return keyErr
	}
	if o.check || o.apply || o.confirm || o.read != "" {
		path := o.config
		if path == "" {
			path = update.ConfigFile
		}
		c, err := update.LoadConfig(path)
		if err != nil {
			return err
		}
		if u.Config, err = o.override(c); err != nil {
			return err
		}
	}
	return act(ctx, env, o, u)
}

// accepted reads the keys that may sign slot manifests.
func accepted(dir string) ([]ed25519.PublicKey, error) {
	pubs, err := key.LoadPublicDir(dir)
	if err != nil {
		return nil, err
	}
	if len(pubs) == 0 {
		return nil, fmt.Errorf("load public keys: there is none in %s", dir)
	}
	out := make([]ed25519.PublicKey, len(pubs))
	for i, p := range pubs {
		out[i] = p.Key
	}
	return out, nil
}

func act(ctx context.Context, env *cli.Env, o *options, u *update.Updater) error {
	switch o.action() {
	case "check":
		return check(ctx, env, o, u)
	case "apply":
		return apply(ctx, env, o, u)
	case "commit":
		res, err := u.Commit(ctx)
		if err != nil {
			return err
		}
		if err := show(env, o, res, commitText(res)); err != nil {
			return err
		}
		if o.reboot {
			return u.Reboot(ctx)
		}
		return nil
	case "confirm":
		res, err := u.Confirm(ctx)
		if err != nil {
			return err
		}
		return show(env, o, res, confirmText(res))
	case "rollback":
		res, err := u.Rollback(ctx, o.reboot)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("slot %s (version %s) is the default now", res.Slot, res.Version)
		if res.Rebooting {
			return show(env, o, res, text+", rebooting")
		}
		return show(env, o, res, text+": reboot to run it")
	case "firmware":
		return firmware(ctx, env, o, u)
	case "boot-failed":
		return u.BootFailed(ctx)
	case "reboot":
		return u.Reboot(ctx)
	case "read":
		return u.Read(ctx, env.Stdout)
	}
	return fmt.Errorf("internal error: no action")
}

func check(ctx context.Context, env *cli.Env, o *options, u *update.Updater) error {
	res, err := u.Check(ctx, update.Choice{Version: o.version, AllowDowngrade: o.allowDowngrade})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("installed %s, available %s", res.Installed.Version, res.Available.Version)
	if res.Update {
		text += ": run os-update --apply"
	} else {
		text += ": up to date"
	}
	if err := show(env, o, res, text); err != nil {
		return err
	}
	if res.Update {
		return cli.Exit(cli.Available)
	}
	return cli.Exit(cli.Nothing)
}

func apply(ctx context.Context, env *cli.Env, o *options, u *update.Updater) error {
	res, err := u.Apply(ctx, update.ApplyOptions{
		Choice:       update.Choice{Version: o.version, AllowDowngrade: o.allowDowngrade},
		DownloadOnly: o.downloadOnly, DryRun: o.dryRun,
		// What the jump does cannot be reported after it.
		Before: func(res *update.ApplyResult) error { return show(env, o, res, applyText(res)) },
	})
	if err != nil {
		return err
	}
	if res.Outcome == update.OutcomeUpToDate {
		if err := show(env, o, res, "installed "+res.Installed.Version+": up to date"); err != nil {
			return err
		}
		return cli.Exit(cli.Nothing)
	}
	return nil
}

func firmware(ctx context.Context, env *cli.Env, o *options, u *update.Updater) error {
	res, err := u.Firmware(ctx, update.FirmwareOptions{DryRun: o.dryRun, AllowDowngrade: o.allowDowngrade})
	if err != nil {
		return err
	}
	if err := show(env, o, res, firmwareText(res)); err != nil {
		return err
	}
	if !res.Changed {
		return cli.Exit(cli.Nothing)
	}
	return nil
}

// show prints a result.
func show(env *cli.Env, o *options, v any, text string) error {
	if o.json {
		return cli.PrintJSON(env.Stdout, v)
	}
	_, err := fmt.Fprintln(env.Stdout, text)
	return err
}

func commitText(res *update.CommitResult) string {
	switch res.Outcome {
	case "committed":
		return fmt.Sprintf("slot %s (version %s) is committed", res.Slot, res.Version)
	case "good":
		return fmt.Sprintf("slot %s (version %s) booted well", res.Slot, res.Version)
	}
	return fmt.Sprintf("slot %s (version %s) is committed already", res.Slot, res.Version)
}

func confirmText(res *update.ConfirmResult) string {
	switch {
	case !res.Trial:
		return "nothing is on trial"
	case res.Server == "":
		return "no update server to ask"
	}
	return res.Server + " answers"
}

func firmwareText(res *update.FirmwareResult) string {
	would := ""
	if res.DryRun {
		would = "would be "
	}
	var lines []string
	for _, f := range res.Files {
		switch f.State {
		case update.FirmwareCurrent:
			lines = append(lines, fmt.Sprintf("%s is that of version %s (%s)", f.Name, res.Version, f.New))
		case update.FirmwareNew:
			lines = append(lines, fmt.Sprintf("%s %snew, of version %s (%s)", f.Name, would, res.Version, f.New))
		default:
			lines = append(lines, fmt.Sprintf("%s %sreplaced by that of version %s (%s, was %s), %s keeps the old one", f.Name, would, res.Version, f.New, f.Old, f.Previous))
		}
	}
	return strings.Join(lines, "\n")
}

func applyText(res *update.ApplyResult) string {
	size := func(n int64) string { return humanize.IBytes(uint64(n)) }
	parts := fmt.Sprintf("%s kept, %s from slot %s, %s fetched", size(res.KeptBytes), size(res.ReusedBytes), res.Installed.Slot, size(res.FetchedBytes))
	if res.FullImage {
		parts += " as a whole image"
	}
	switch res.Outcome {
	case update.OutcomePlanned:
		text := fmt.Sprintf("would write %s to slot %s: %s of %s", res.Available.Version, res.Slot, parts, size(res.TotalBytes))
		for _, s := range res.Plan {
			text += "\n  " + s
		}
		return text
	case update.OutcomeWritten:
		return fmt.Sprintf("slot %s holds %s (%s), not started", res.Slot, res.Available.Version, parts)
	}
	how := "jumping into it"
	if res.Activation == update.ActivateReboot {
		how = "rebooting into it"
	}
	if !res.Wrote {
		return fmt.Sprintf("slot %s holds %s already, %s", res.Slot, res.Available.Version, how)
	}
	return fmt.Sprintf("slot %s holds %s (%s), %s", res.Slot, res.Available.Version, parts, how)
}
