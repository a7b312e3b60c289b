package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/registrystate"
)

const program = "podman-pilot"

const usage = `Usage: FLAKE [@INSTANCE] [%OPTION...] [--] [ARGUMENT...]

The launcher behind flakes, commands that are containers. It is called by the name of a flake,
through a link to it, and reads ` + flake.Dir + `/FLAKE.yaml and FLAKE.d, or those of the
image in ` + flake.ShippedDir + `.

Words that begin with @ or %, up to the first --, are the launcher's:
  @INSTANCE                      a name for this container: there is one at a time
  %ignore_missing_volume_path    leave out volumes whose path on the host is missing

%progress, %interactive, %remove and %ignore_sync_error are accepted and change nothing.

PILOT_DEBUG=1 in the environment shows the command line of podman.

Exit status: that of the application; 125 it was not started, 126 it cannot be run,
127 the container does not have it.
`

// place is where the program finds things, and what it becomes; tests give others.
type place struct {
	dir, shipped, registry string
	euid                   int
	terminal               bool
	exec                   func(argv []string) error
}

// Main runs the flake whose name the program was called by.
func Main(_ context.Context, env *cli.Env) error {
	return run(env, os.Args[0], place{
		dir: flake.Dir, shipped: flake.ShippedDir, registry: registrystate.File, euid: os.Geteuid(),
		terminal: term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())),
		// From here on this process is podman: streams, signals and the status are its.
		exec: func(argv []string) error { return syscall.Exec(argv[0], argv, os.Environ()) },
	})
}

func run(env *cli.Env, called string, at place) error {
	name := filepath.Base(called)
	if name == program {
		if len(env.Args) == 1 && (env.Args[0] == "--help" || env.Args[0] == "-h") {
			_, err := io.WriteString(env.Stdout, usage)
			return err
		}
		return cli.Refuse(cli.Usage, errors.New("called by its own name, want that of a flake"), program+" --help says more")
	}
	argv, err := plan(env, called, name, at)
	if err != nil {
		return cli.Refuse(cli.NotStarted, err, hint(err))
	}
	if env.Getenv("PILOT_DEBUG") != "" {
		fmt.Fprintf(env.Stderr, "%s: %q\n", name, argv)
	}
	err = at.exec(argv)
	todo := "the image needs the package " + filepath.Base(argv[0])
	if argv[0] == sudo {
		todo = "call it as root; the image has no sudo"
	}
	return cli.Refuse(cli.NotStarted, fmt.Errorf("start flake %s: run %s: %w", name, argv[0], err), todo)
}

const sudo = "/usr/bin/sudo"

// plan returns what to become.
func plan(env *cli.Env, called, name string, at place) ([]string, error) {
	call, err := flake.ParseCall(env.Args)
	if err != nil {
		return nil, cli.Refuse(cli.NotStarted, err, "put -- before arguments of the application that begin with @ or %")
	}
	r, err := flake.Find(at.dir, at.shipped, name)
	if err != nil {
		return nil, err
	}
	if r.Root() && at.euid != 0 {
		return asRoot(called, env.Args)
	}
	argv, err := flake.Argv(r, call, flake.Situation{
		Registry: registrystate.Load(at.registry), Terminal: at.terminal, Getenv: env.Getenv,
		Exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
	})
	if err != nil {
		return nil, err
	}
	if dir := flake.StateFolder(r); dir != "" {
		// Podman has no volume of a folder that is not there, as where there is no registry.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of flake %s: %w", name, err)
		}
	}
	return argv, nil
}

// asRoot is the same call through sudo. It is the command itself that sudo is asked for, and
// not podman, so a rule of sudoers can allow one flake and nothing else; and the environment
// that its options may use is sudo's, not the caller's.
func asRoot(called string, args []string) ([]string, error) {
	path := called
	if !strings.Contains(called, "/") {
		var err error
		if path, err = exec.LookPath(called); err != nil {
			return nil, fmt.Errorf("start flake as root: %w", err)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("start flake as root: %w", err)
	}
	return append([]string{sudo, "--", path}, args...), nil
}

// hint says what to do about an error.
func hint(err error) string {
	var missing *flake.NotFoundError
	switch {
	case errors.Is(err, flake.ErrNoRegistry):
		return "flake-registry --status says what is wrong and what to do"
	case errors.As(err, &missing):
		return "a command of this name needs a registration in " + flake.Dir
	}
	return ""
}
