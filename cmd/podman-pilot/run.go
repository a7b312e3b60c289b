package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/flake/fetch"
	"github.com/OSInside/eos/internal/flake/launch"
	"github.com/OSInside/eos/internal/registrystate"
)

const program = "podman-pilot"

const usage = `Usage: FLAKE [@INSTANCE] [%OPTION...] [--] [ARGUMENT...]

The launcher behind flakes, commands that are containers. It is called by the name of a flake,
through a link to it, and reads ` + flake.Dir + `/FLAKE.yaml and FLAKE.d, those of the
image in ` + flake.ShippedDir + `, or those of the caller.

Words that begin with @ or %, up to the first --, are the launcher's:
  @INSTANCE                      a name for this container: there is one at a time
  %remove                        remove a container that would stay, when the application has ended
  %progress                      say what takes long
  %ignore_sync_error             go on without what of the host cannot be had
  %ignore_missing_volume_path    leave out volumes whose path on the host is missing

%interactive is accepted and changes nothing: the application always has the caller's streams.

PILOT_DEBUG=1 in the environment shows the command lines of podman.

Exit status: that of the application; 125 it was not started, 126 it cannot be run,
127 the container does not have it.
`

// place is where the program finds things; tests give others.
type place struct {
	config, home, dir, shipped, registry string
	euid                                 int
	launch                               func(context.Context, launch.Options) (int, error)
}

// Main runs the flake whose name the program was called by.
func Main(ctx context.Context, env *cli.Env) error {
	at := place{
		config: flake.ConfigFile, dir: flake.Dir, shipped: flake.ShippedDir, registry: registrystate.File,
		euid: os.Geteuid(), launch: launch.Run,
	}
	if at.euid != 0 {
		u, err := user.LookupId(strconv.Itoa(at.euid))
		if err != nil {
			return cli.Refuse(cli.NotStarted, fmt.Errorf("find the caller: %w", err), "")
		}
		at.home = u.HomeDir
	}
	return run(ctx, env, os.Args[0], at)
}

func run(ctx context.Context, env *cli.Env, called string, at place) error {
	name := filepath.Base(called)
	if name == program {
		switch {
		case slices.Equal(env.Args, []string{"--help"}), slices.Equal(env.Args, []string{"-h"}):
			_, err := io.WriteString(env.Stdout, usage)
			return err
		case len(env.Args) == 3 && env.Args[0] == launch.WatchFlag:
			return launch.Watch(env.Args[1], env.Args[2])
		}
		return cli.Refuse(cli.Usage, errors.New("called by its own name, want that of a flake"), program+" --help says more")
	}
	o, err := at.options(env, name)
	if err == nil {
		var status int
		if status, err = at.launch(ctx, o); err == nil && status != 0 {
			return cli.Refuse(cli.Code(status), nil, "")
		}
	}
	if err == nil {
		return nil
	}
	return cli.Refuse(cli.NotStarted, err, hint(name, err))
}

// errRoot says that a flake is root's.
var errRoot = errors.New("it runs as root")

// options finds the flake, and what else there is to know of it.
func (at place) options(env *cli.Env, name string) (launch.Options, error) {
	var o launch.Options
	var err error
	if o.Call, err = flake.ParseCall(env.Args); err != nil {
		return o, cli.Refuse(cli.NotStarted, err, "put -- before arguments of the application that begin with @ or %")
	}
	system, err := flake.LoadConfig(at.config)
	if err != nil {
		return o, err
	}
	if system.Dir != flake.Dir {
		at.dir = system.Dir
	}
	own, ownErr := at.ownConfig()
	o.Registration, err = flake.Find(at.dir, at.shipped, name)
	var missing *flake.NotFoundError
	if errors.As(err, &missing) && own.Dir != "" {
		o.Registration, err = flake.Find(own.Dir, "", name)
	}
	if err != nil {
		return o, errors.Join(err, ownErr)
	}
	o.StorageConf = system.StorageConf
	if at.euid != 0 {
		if o.Registration.Root() {
			return o, fmt.Errorf("start flake %s: %w", name, errRoot)
		}
		if ownErr != nil {
			return o, ownErr
		}
		o.StorageConf = own.StorageConf
	}
	if o.HostPaths = system.HostPaths; len(o.HostPaths) == 0 {
		o.HostPaths = assemble.HostPaths
	}
	o.Registry = registrystate.State{OK: true}
	// Where the folder of flakes is a link, it leads into the registry.
	if st, err := os.Lstat(at.dir); at.euid == 0 && (err != nil || st.Mode()&fs.ModeSymlink != 0) {
		o.Registry = registrystate.Load(at.registry)
	}
	if o.Dir, err = launch.Dir(); err != nil {
		return o, err
	}
	say := func(format string, a ...any) { fmt.Fprintf(env.Stderr, name+": "+format+"\n", a...) }
	o.Note = say
	if env.Getenv("PILOT_DEBUG") != "" {
		o.Debug = func(argv []string) { say("%q", argv) }
	}
	return o, nil
}

// ownConfig is flakes.yml of the caller; a caller need not have one.
func (at place) ownConfig() (flake.Config, error) {
	if at.home == "" {
		return flake.Config{}, nil
	}
	path := filepath.Join(at.home, flake.UserConfig)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return flake.Config{}, nil
	}
	if err != nil {
		return flake.Config{}, fmt.Errorf("read settings of the caller's flakes: %w", err)
	}
	return flake.ParseConfig(path, text, true)
}

// hint says what to do about an error.
func hint(name string, err error) string {
	var missing *flake.NotFoundError
	switch {
	case errors.Is(err, flake.ErrNoRegistry):
		return "flake-registry --status says what is wrong and what to do"
	case errors.As(err, &missing):
		return "flake-ctl list shows the commands there are, flake-ctl list --user your own"
	case errors.Is(err, errRoot):
		return "call it as root: sudo " + name
	case errors.Is(err, launch.ErrBusy):
		return "another @INSTANCE is a container of its own"
	case errors.Is(err, fetch.ErrUnreachable):
		return "is the network up, and the name of the registry right? flake-ctl podman load takes a container from a file"
	case errors.Is(err, assemble.ErrHostPath):
		return "host_paths in " + flake.ConfigFile + " says what images may have; %ignore_sync_error goes on without"
	}
	return ""
}
