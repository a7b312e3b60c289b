package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/registry"
)

// Main runs flake-registry on the device it is called on.
func Main(ctx context.Context, env *cli.Env) error {
	o, err := parse(env.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(env.Stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	env.JSON = o.json
	if os.Geteuid() != 0 {
		return cli.Refuse(cli.Failure, errors.New("look after the registry: only root may"), "use sudo")
	}
	config, err := registry.LoadConfig(registry.ConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		return cli.Refuse(cli.Failure, errors.New("look after the registry: this image has none"), "build it with a registry.policy other than off")
	}
	if err != nil {
		return err
	}
	dev, err := device.Load(device.BootFile)
	if err != nil {
		return err
	}
	s := &registry.System{Config: config, Device: dev, Note: func(format string, a ...any) {
		if !o.status {
			fmt.Fprintf(env.Stderr, "flake-registry: "+format+"\n", a...)
		}
	}}
	if !o.status && !o.confirm {
		unlock, err := registry.Lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
	return explain(act(ctx, env, o, s))
}

func act(ctx context.Context, env *cli.Env, o *options, s *registry.System) error {
	confirm := func(question string) error { return ask(env, o.yes, question) }
	switch o.action() {
	case "status":
		return show(ctx, env, o, s)
	case "start":
		st, err := s.Start(ctx)
		if err != nil {
			return err
		}
		if t := st.Trouble(); t != nil {
			// The boot goes on: this is for the journal and the console.
			fmt.Fprintf(env.Stderr, "flake-registry: no registry: %s\nhint: %s\n", t.Problem, t.ToDo)
		}
		return nil
	case "setup":
		if err := s.Setup(ctx, registry.SetupOptions{Device: o.setup, Wipe: o.wipe, Confirm: confirm}); err != nil {
			return err
		}
		return say(env, o, "made a registry on %s; flake-registry --activate %s uses it", o.setup, o.setup)
	case "activate":
		if err := s.Activate(ctx, o.activate); err != nil {
			return err
		}
		return say(env, o, "flakes use the registry on %s", o.activate)
	case "stop":
		if err := s.Stop(ctx); err != nil {
			return err
		}
		return say(env, o, "the registry is out of use until flake-registry --start")
	case "grow":
		if err := s.Grow(ctx); err != nil {
			return err
		}
		return show(ctx, env, o, s)
	case "recovery-key":
		return recoveryKey(ctx, env, o, s)
	case "unlock":
		key, err := readKey(env)
		if err != nil {
			return err
		}
		if err := s.Unlock(ctx, key, o.reseal); err != nil {
			return err
		}
		return say(env, o, "the registry is open")
	case "restore-header":
		if err := s.RestoreHeader(ctx, confirm); err != nil {
			return err
		}
		return say(env, o, "the header is back, the registry is open")
	case "repair":
		if err := confirm("xfs_repair will write to the registry; what it cannot keep ends in lost+found"); err != nil {
			return err
		}
		if err := s.Repair(ctx, o.discardJournal, env.Stderr); err != nil {
			return err
		}
		return say(env, o, "the registry is repaired and open")
	case "confirm":
		return s.Confirm(ctx)
	}
	return fmt.Errorf("internal error: no action %q", o.action())
}

// show prints the status; a script sees from the exit status whether there is a registry.
func show(ctx context.Context, env *cli.Env, o *options, s *registry.System) error {
	st := s.Status(ctx)
	var err error
	if o.json {
		err = cli.PrintJSON(env.Stdout, st)
	} else {
		err = st.Text(env.Stdout)
	}
	if err == nil && st.State != registry.StateOK {
		err = cli.Exit(cli.Degraded)
	}
	return err
}

// recoveryKey shows the key on standard output, and what to do with it on standard error.
func recoveryKey(ctx context.Context, env *cli.Env, o *options, s *registry.System) error {
	var about io.Writer = env.Stderr
	if o.json {
		about = io.Discard
	}
	key, err := s.RecoveryKey(ctx, about)
	if err != nil {
		return err
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, map[string]string{"recovery_key": key})
	}
	_, err = fmt.Fprintln(env.Stdout, key)
	return err
}

// readKey reads the recovery key without showing it.
func readKey(env *cli.Env) (string, error) {
	var line string
	if f, ok := env.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(env.Stderr, "recovery key: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(env.Stderr)
		if err != nil {
			return "", fmt.Errorf("read recovery key: %w", err)
		}
		line = string(b)
	} else {
		text, err := bufio.NewReader(io.LimitReader(env.Stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read recovery key: %w", err)
		}
		line = text
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", cli.Refuse(cli.Usage, errors.New("read recovery key: standard input is empty"), "flake-registry --unlock reads it from the terminal or from a pipe")
	}
	return line, nil
}

// ask wants a yes from a terminal, or --yes.
func ask(env *cli.Env, yes bool, question string) error {
	if yes {
		return nil
	}
	f, ok := env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return cli.Refuse(cli.Refused, errors.New(question+": nobody has agreed to that"), "--yes agrees")
	}
	fmt.Fprintf(env.Stderr, "%s. Go on? [y/N] ", question)
	answer, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return cli.Refuse(cli.Refused, errors.New("nothing was changed"), "")
	}
	return nil
}

// say prints what was done.
func say(env *cli.Env, o *options, format string, a ...any) error {
	if o.json {
		return cli.PrintJSON(env.Stdout, map[string]string{"done": fmt.Sprintf(format, a...)})
	}
	_, err := fmt.Fprintf(env.Stdout, format+"\n", a...)
	return err
}

// explain gives errors of package registry their exit codes.
func explain(err error) error {
	switch {
	case errors.Is(err, registry.ErrBusy):
		return cli.Refuse(cli.Locked, err, "stop the flakes and containers that use it first: podman ps")
	case errors.Is(err, registry.ErrRefused):
		return cli.Refuse(cli.Refused, err, "")
	}
	return err
}
