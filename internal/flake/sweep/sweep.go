// Package sweep removes containers of flakes that nobody will: those of launchers that were
// cut off, by a power cut or with everything around them, and those of a flake that is taken
// out.
//
// [Store.Leftovers] removes the first. A container is one if it is of a flake, is not one
// that stays, and has no process; or if podman has it in its storage and knows nothing more of
// it, as when it was cut off while it made it. What is younger than a minute, and than this start
// of the system, may be about to start, and is left. [Store.OfFlake] removes the second, whatever they do, with what
// launchers have noted of them.
//
// Of a container that was cut off in the moment between its layer and its entry in the storage
// an empty layer is left, which belongs to nobody and is not removed.
//
// A store without containers is seen from its tables: podman is not started then. Nothing but
// containers of flakes, and the folders in which images for them were put together, is ever
// removed. It may be done at any time, beside launchers, and again after a cut.
package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/launch"
)

// Store is podman's store of one user.
type Store struct {
	Podman []string // command line of podman, up to what it is to do
	Env    []string // of podman
	Root   string   // its folder; empty: it is not known
	Run    string   // folder in which launchers keep what they know, see package launch
	Young  time.Duration
}

// Young is how old a container is that cannot be one which is about to start.
const Young = time.Minute

// Container is one of a flake.
type Container struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Flake string `json:"flake"` // empty: podman does not know
	State string `json:"state"` // in podman's words
	Stays bool   `json:"-"`     // it outlives its calls
}

// prefix begins the names of containers of flakes.
var prefix = flake.ContainerName("", "")

// Leftovers removes containers that were left and returns them.
func (s *Store) Leftovers(ctx context.Context) ([]Container, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	var out []Container
	var problems []error
	for _, c := range leftovers(all, time.Now(), youth(s.Young), launch.Alive) {
		if c.State == "running" && s.minded(ctx, c.ID) {
			continue
		}
		if err := s.remove(ctx, c.ID, "--time=0"); err != nil {
			problems = append(problems, fmt.Errorf("remove container %s: %w", c.Name, err))
			continue
		}
		out = append(out, c)
	}
	return out, errors.Join(problems...)
}

// OfFlake removes the containers of a flake, after it has stopped them, and returns them.
func (s *Store) OfFlake(ctx context.Context, name string) ([]Container, error) {
	found, err := s.Of(ctx, name)
	var out []Container
	problems := []error{err}
	for _, c := range found {
		if err := s.remove(ctx, c.ID); err != nil {
			problems = append(problems, fmt.Errorf("remove container %s: %w", c.Name, err))
			continue
		}
		problems = append(problems, s.forget(c.Name))
		out = append(out, c)
	}
	return out, errors.Join(problems...)
}

// Of returns the containers of a flake.
func (s *Store) Of(ctx context.Context, name string) ([]Container, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	var out []Container
	for _, r := range all {
		if r.Labels[flake.Label] == name {
			out = append(out, r.container())
		}
	}
	return out, nil
}

// remove has podman remove a container. Podman that finds out only now that it does not run
// says so, and removes it the next time.
func (s *Store) remove(ctx context.Context, id string, more ...string) error {
	c := s.command(append(append([]string{"rm", "--force"}, more...), id)...)
	if err := command.Run(ctx, c); err == nil || ctx.Err() != nil {
		return err
	}
	return command.Run(ctx, c)
}

func (s *Store) command(args ...string) command.Cmd {
	return command.Cmd{Argv: append(slices.Clone(s.Podman), args...), Env: s.Env}
}

// record is what podman says of a container.
type record struct {
	ID      string `json:"Id"`
	Names   []string
	Labels  map[string]string
	State   string
	Pid     int
	Created int64
}

func (r *record) container() Container {
	c := Container{ID: r.ID, Flake: r.Labels[flake.Label], State: r.State, Stays: r.Labels[flake.LabelStays] == "true"}
	if len(r.Names) > 0 {
		c.Name = r.Names[0]
	}
	return c
}

// list asks podman for all containers, its own and those of which there is only storage.
func (s *Store) list(ctx context.Context) ([]record, error) {
	if s.empty() {
		return nil, nil
	}
	out, err := command.Output(ctx, s.command("ps", "--all", "--external", "--no-trunc", "--format", "json"))
	if err != nil {
		return nil, err
	}
	return parse(out)
}

func parse(text []byte) ([]record, error) {
	var all []record
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read podman's list of containers: %w", err)
	}
	return all, nil
}

// empty tells whether a store has no container, or is none. Podman writes both tables whole;
// the second one has the containers that go when they end.
func (s *Store) empty() bool {
	if s.Root == "" {
		return false
	}
	for _, name := range []string{"containers.json", "volatile-containers.json"} {
		text, err := os.ReadFile(filepath.Join(s.Root, "overlay-containers", name))
		text = bytes.TrimSpace(text)
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(text) > 0 && string(text) != "[]" && string(text) != "null" {
			return false
		}
	}
	return true
}

// youth is how old a container is that cannot be about to start: at most as old as this start of
// the system, since nobody is at work on what was there before.
func youth(young time.Duration) time.Duration {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return young
	}
	return min(young, time.Duration(info.Uptime)*time.Second)
}

// leftovers are the containers that were left. A time that is not reached yet says that the
// clock was set back since, as at the start of a system without one.
func leftovers(all []record, now time.Time, young time.Duration, alive func(pid int) bool) []Container {
	var out []Container
	for _, r := range all {
		c := r.container()
		age := now.Sub(time.Unix(r.Created, 0))
		old := age < 0 || age >= young
		switch {
		case c.Flake == "" && r.State == "storage" && strings.HasPrefix(c.Name, prefix) && old:
		case c.Flake == "" || c.Stays:
			continue
		case r.State == "running" || r.State == "paused":
			// Podman is told of its end by another process, which may have been killed with it.
			if alive(r.Pid) {
				continue
			}
		case !old:
			continue
		}
		out = append(out, c)
	}
	return out
}

// minded tells whether there is the process that tells podman of the end of a container.
func (s *Store) minded(ctx context.Context, id string) bool {
	out, err := command.Output(ctx, s.command("container", "inspect", "--format", "{{.State.ConmonPid}}", id))
	if err != nil {
		return true // it has gone meanwhile
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	return err != nil || launch.Alive(pid)
}
