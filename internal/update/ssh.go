package update

import (
	"context"
	"errors"
	"io"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
)

// sshDir is where a server of the system that this one replaces keeps images.
const sshDir = "/srv/www/fleet/os-images"

// sshArgv is the ssh command that streams an image. The image name is a plain
// name, so the remote shell has nothing to expand.
func sshArgv(s Server, pkey, name string) []string {
	return append(sshOptions(s, pkey), "--", s.SSH, "sudo cat "+sshDir+"/"+name+".raw.dev")
}

// sshOptions is an ssh command without its target. The host key must be known:
// there is no trust on first use, and no question that a device could answer.
func sshOptions(s Server, pkey string) []string {
	argv := []string{"ssh", "-T",
		"-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=30",
		"-o", "ServerAliveInterval=15",
		"-o", "ServerAliveCountMax=4",
		"-o", "LogLevel=ERROR",
	}
	if pkey != "" {
		argv = append(argv, "-o", "IdentitiesOnly=yes", "-i", pkey)
	}
	if s.Port != "" {
		argv = append(argv, "-p", s.Port)
	}
	return argv
}

// runSSH streams the image to w. The status of ssh counts: a stream that ended
// early never looks like a whole one.
func runSSH(ctx context.Context, argv []string, w io.Writer) error {
	err := command.Run(ctx, command.Cmd{Argv: argv, Stdout: w})
	var ce *command.Error
	if errors.As(err, &ce) && ce.Status == 255 {
		return cli.Refuse(cli.Unreachable, err, "the server's host key must be in /etc/ssh/ssh_known_hosts, and --pkey must name a key that the server knows")
	}
	return err
}
