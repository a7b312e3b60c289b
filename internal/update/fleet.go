package update

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
)

// FleetKey is the private key that the program fleet brings. A configuration that names it
// needs nobody to call that program.
const FleetKey = "/run/id_fleet"

// fleetLimit is how long it may take: it starts a container, on a device that may be slow.
const fleetLimit = 3 * time.Minute

// Fleet is the program that brings the key, and where to; empty: those of a device.
type Fleet struct{ Program, Key string }

// fetchKey has the key for ssh brought if it is the one that fleet brings, and missing, as
// after every start of the system.
func (u *Updater) fetchKey(ctx context.Context) error {
	file := cmp.Or(u.Fleet.Key, FleetKey)
	if u.Config.PKey != file {
		return nil
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil // ssh says what is wrong with it
	}
	program := cmp.Or(u.Fleet.Program, "/usr/bin/fleet")
	limited, cancel := context.WithTimeoutCause(ctx, fleetLimit, fmt.Errorf("it took longer than %s", fleetLimit))
	defer cancel()
	err := command.Run(limited, command.Cmd{Argv: []string{program, "--getkey"}})
	if err == nil {
		_, err = os.Stat(file)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fleetError(file, err)
}

// lastSaid returns the last error of fleet, and its hint: podman may have a word after it. Where
// fleet did not get to say anything, it is podman's last line.
func lastSaid(text string) (said, hint string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if said, ok := strings.CutPrefix(lines[i], "fleet: "); ok {
			if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "hint: ") {
				hint = strings.TrimPrefix(lines[i+1], "hint: ")
			}
			return said, hint
		}
	}
	return lines[len(lines)-1], ""
}

// fleetError puts into one line what fleet has said in two.
func fleetError(file string, err error) error {
	hint := "fleet --getkey shows more; pkey (--pkey) can name another key"
	var ce *command.Error
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		hint = "build the image with fleet: in its description, or let pkey (--pkey) name another key"
	case errors.As(err, &ce):
		said, todo := lastSaid(ce.StderrTail)
		hint = cmp.Or(todo, hint)
		if said != "" {
			err = fmt.Errorf("fleet ended with status %d: %s", ce.Status, said)
		}
	}
	return cli.Refuse(cli.Failure, fmt.Errorf("get key %s: %w", file, err), hint)
}
