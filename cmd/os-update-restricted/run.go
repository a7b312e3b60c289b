package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve/restricted"
)

const usage = `Usage: os-update-restricted [--repo DIR] [--images DIR] [--log FILE]

The forced command of an ssh key with which devices read updates. In ~/.ssh/authorized_keys:

  command="/usr/bin/os-update-restricted",restrict ssh-ed25519 AAAA... device

Options:
  --repo DIR      the repository (default /srv/www/fleet/repository)
  --images DIR    the image files (default /srv/www/fleet/os-images)
  --log FILE      append to FILE instead of the system's log

What the client asks for is in SSH_ORIGINAL_COMMAND: nothing or os-update-restricted for HTTP over
the connection, as os-update does; or exactly one of

  [sudo] cat /srv/www/fleet/os-images/NAME.raw[.dev|.firmware|.sha]
  [sudo] test -e /srv/www/fleet/os-images/NAME.raw[.dev|.firmware|.sha]

Exit status: 0 done, 1 error or not there, 2 usage, 4 refused.
`

type options struct{ repo, images, log string }

func parse(args []string) (options, error) {
	o := options{}
	fs := flag.NewFlagSet(restricted.Program, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.repo, "repo", "/srv/www/fleet/repository", "")
	fs.StringVar(&o.images, "images", restricted.ImagesDir, "")
	fs.StringVar(&o.log, "log", "", "")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return o, err
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err != nil {
		return o, cli.Refuse(cli.Usage, err, restricted.Program+" --help lists the options")
	}
	return o, nil
}

// Main is the program.
func Main(ctx context.Context, env *cli.Env) error {
	o, err := parse(env.Args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(env.Stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	log, done, err := openLog(env, o.log)
	if err != nil {
		return err
	}
	defer done()
	// Who it is and which key it was is for the log; sshd has checked both.
	log = log.With("connection", env.Getenv("SSH_CONNECTION"), "user", env.Getenv("USER"))

	command := env.Getenv("SSH_ORIGINAL_COMMAND")
	if command == "" {
		command = restricted.Program
		if term.IsTerminal(int(os.Stdin.Fd())) {
			command = "a shell"
		}
	}
	request, err := restricted.Parse(command)
	if err != nil {
		log.Warn("refused", "command", command)
		return cli.Refuse(cli.Refused, err, "")
	}
	c := restricted.Command{Repo: o.repo, Images: o.images, Log: log, Stdin: pollable(0), Stdout: pollable(1)}
	switch err := c.Run(ctx, request); {
	case restricted.IsAbsent(err):
		return &cli.Error{Code: cli.Failure}
	case err != nil:
		log.Error("failed", "command", command, "error", err.Error())
		return err
	}
	return nil
}

// pollable returns a standard stream on which deadlines work.
func pollable(fd int) *os.File {
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewFile(uintptr(fd), "stdio") // without deadlines, then; sshd has its own
	}
	return os.NewFile(uintptr(fd), "stdio")
}

// maxLogged bounds a line of the log: what a client sends may be long.
const maxLogged = 512

// openLog returns the log. A system without one is no reason not to update, but is said.
func openLog(env *cli.Env, file string) (_ *slog.Logger, done func() error, err error) {
	var w io.WriteCloser
	if file != "" {
		if w, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
			return nil, nil, fmt.Errorf("open log: %w", err)
		}
	} else if w, err = syslog.New(syslog.LOG_INFO|syslog.LOG_AUTH, restricted.Program); err != nil {
		fmt.Fprintf(env.Stderr, "%s: warning: nothing is logged: %v\n", restricted.Program, err)
		return slog.New(slog.DiscardHandler), func() error { return nil }, nil
	}
	h := slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if s := a.Value.String(); a.Value.Kind() == slog.KindString && len(s) > maxLogged {
			a.Value = slog.StringValue(s[:maxLogged] + "...")
		}
		return a
	}})
	return slog.New(h), w.Close, nil
}
