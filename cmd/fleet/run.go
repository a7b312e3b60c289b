package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/fleet"
)

const usage = `Usage: fleet --getkey [--json]
       fleet --enroll [--send URL [--insecure]] [--new] [--transient] [--json]

Actions, one of:
  --getkey      put the key for updates to ` + fleet.KeyFile + `, where os-update looks for it:
                the device's own, or else the one that came with the image
  --enroll      make a key pair on this device, and print what the update server needs
                of it: a line for authorized_keys; a key that is there is kept

Options:
  --send URL    send it to an https URL as well, as JSON
  --insecure    allow http: anybody on the way could put another key in its place
  --new         make another key though there is one; the server does not know it yet
  --transient   make a key though there is no registry and the next restart loses it
  --json        print results as JSON

Exit status: 0 done, 1 error, 2 usage, 3 there is no key, 4 refused by the server,
7 server unreachable, 11 there is no registry to keep a key in, 125 not started.

Examples:
  fleet --enroll --send https://updates.example.com/enroll
  fleet --enroll | ssh root@updates.example.com 'cat >> /srv/www/fleet/authorized_keys/fleet'
`

type options struct {
	getkey, enroll, insecure, renew, transient, json bool

	send string
	url  *url.URL
}

// parse reads the command line. Help is asked for when the error is flag.ErrHelp.
func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("fleet", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.BoolVar(&o.getkey, "getkey", false, "")
	fs.BoolVar(&o.enroll, "enroll", false, "")
	fs.BoolVar(&o.insecure, "insecure", false, "")
	fs.BoolVar(&o.renew, "new", false, "")
	fs.BoolVar(&o.transient, "transient", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.StringVar(&o.send, "send", "", "")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil, err
	}
	switch {
	case err != nil:
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.getkey == o.enroll:
		err = errors.New("give one of --getkey and --enroll")
	case o.getkey && (o.send != "" || o.renew || o.transient):
		err = errors.New("--send, --new and --transient go with --enroll")
	case o.insecure && o.send == "":
		err = errors.New("--insecure goes with --send")
	case o.send != "":
		o.url, err = fleet.CheckURL(o.send, o.insecure)
	}
	var hinted *cli.Error
	if err != nil && !errors.As(err, &hinted) {
		err = cli.Refuse(cli.Usage, err, "fleet --help lists the options")
	}
	return o, err
}

// Main runs fleet on a device, inside its container or outside.
func Main(ctx context.Context, env *cli.Env) error { return run(ctx, env, fleet.System()) }

func run(ctx context.Context, env *cli.Env, d *fleet.Device) error {
	o, err := parse(env.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(env.Stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	env.JSON = o.json
	if o.getkey {
		return getKey(ctx, env, d)
	}
	return enroll(ctx, env, d, o)
}

func getKey(ctx context.Context, env *cli.Env, d *fleet.Device) error {
	res, err := d.GetKey(ctx)
	if err != nil {
		return err
	}
	if env.JSON {
		return cli.PrintJSON(env.Stdout, res)
	}
	if res.Problem != "" {
		note(env, "%s; taking the key of the image", res.Problem)
	}
	whose := "this device's own key"
	if res.Source == fleet.SourceImage {
		whose = "the key of the image, which all its devices share,"
	}
	note(env, "%s is in %s (%s)", whose, res.File, res.Fingerprint)
	return nil
}

func enroll(ctx context.Context, env *cli.Env, d *fleet.Device, o *options) error {
	res, err := d.Enroll(ctx, fleet.Options{New: o.renew, Transient: o.transient})
	if err != nil {
		return err
	}
	switch {
	case res.Made && res.Transient:
		note(env, "made a key that the next restart loses")
	case res.Made:
		note(env, "made a key")
	default:
		note(env, "this device has a key already")
	}
	if env.JSON {
		err = cli.PrintJSON(env.Stdout, res)
	} else {
		_, err = io.WriteString(env.Stdout, res.Text())
	}
	if err != nil || o.url == nil {
		return err
	}
	if err := fleet.Send(ctx, nil, o.url, res); err != nil {
		return err
	}
	note(env, "sent to %s", o.url)
	return nil
}

// note tells people what happened; with --json the result does.
func note(env *cli.Env, format string, a ...any) {
	if !env.JSON {
		fmt.Fprintf(env.Stderr, "fleet: "+format+"\n", a...)
	}
}
