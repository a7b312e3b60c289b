package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
)

const program = "os-update-daemon"

const usage = `Usage: os-update-daemon COMMAND [OPTION...]
       os-update-daemon --image PATH [--oneshot] [OPTION...]

The update server. Commands:
  serve       hand out an update repository over HTTP or HTTPS
  fetch       bring here what is new of all that is published elsewhere
  mirror      bring here what is new of the repository alone
  timers      have systemd look for each of these images regularly (needs root)
  status      say how all stands

With --image it looks for one image, again and again. Each has its own --help.
`

// An action is one of the things this program does.
type action struct {
	name  string // empty: what options without a command mean
	usage string
	flags func(*options, *flag.FlagSet)
	check func(*options) error // of what the options mean together; may be nil
}

// actions in the order of the help.
var actions = []action{
	{"", imageUsage, imageFlags, checkImage},
	{"serve", serveUsage, serveFlags, checkServe},
	{"fetch", fetchUsage, fetchFlags, nil},
	{"mirror", mirrorUsage, mirrorFlags, nil},
	{"timers", timersUsage, timersFlags, nil},
	{"status", statusUsage, statusFlags, nil},
}

// options are the command line.
type options struct {
	action string
	help   string // to be printed, and nothing else

	repo, listen, metrics string
	cert, key, clientCA   string
	maxConns              int
	grace                 time.Duration

	config, images, settings, image, root string
	oneshot, allowOlder                   bool

	json bool
}

func usageError(format string, a ...any) error {
	return cli.Refuse(cli.Usage, fmt.Errorf(format, a...), program+" --help lists the commands, "+program+" COMMAND --help their options")
}

// parse reads the command line.
func parse(args []string) (*options, error) {
	if len(args) == 0 {
		return nil, usageError("no command given: want serve, fetch, mirror, timers, status or --image")
	}
	if args[0] == "--help" || args[0] == "-h" {
		return &options{help: usage}, nil
	}
	name := ""
	if !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	for _, a := range actions {
		if a.name == name {
			return a.parse(args)
		}
	}
	return nil, usageError("unknown command %q: want serve, fetch, mirror, timers or status", name)
}

func (a action) parse(args []string) (*options, error) {
	o := &options{action: a.name}
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	a.flags(o, fs)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return &options{help: a.usage}, nil
	case err != nil:
		return nil, usageError("%w", err)
	case fs.NArg() > 0:
		return nil, usageError("unexpected argument %q", fs.Arg(0))
	}
	if a.check != nil {
		return o, a.check(o)
	}
	return o, nil
}

// Flags that several actions have.

func repoFlag(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.repo, "repo", "/srv/www/fleet/repository", "")
}

func configFlag(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.config, "config", origin.ConfigFile, "")
}

func imagesFlag(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.images, "images", "/srv/www/fleet/os-images", "")
}

func settingsFlag(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.settings, "settings", "/etc/os-update-daemon.conf", "")
}

func jsonFlag(o *options, fs *flag.FlagSet) { fs.BoolVar(&o.json, "json", false, "") }
