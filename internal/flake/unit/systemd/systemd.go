// Package systemd has a service manager know the units of flakes (package unit).
//
// It does not look where they lie: [Manager.Link] makes links in one of its own folders agree
// with what there is. It may be called at any time, and again after a cut; files and links
// that are not ours it leaves alone, and one unit that cannot be linked keeps no other from
// it. [Manager.Start] and [Manager.Stop] say what their names do; where no service manager
// runs they do nothing.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake/unit"
)

// Manager is a service manager, and where it finds units.
type Manager struct {
	Dir       string   // folder of systemd where the links go; empty: none are made
	Path      []string // all its folders
	User      bool     // it is that of a user
	Running   bool     // it runs: it is told of changes
	Systemctl []string // the program, with what it always gets
}

// ErrInTheWay says that a unit of this name is there which is not ours.
var ErrInTheWay = errors.New("another unit has this name")

// patience is how long systemctl may take that waits for a service.
const patience = 3 * time.Minute

// Free says whether the name of a unit is free for that in dir, a folder of registrations.
func (s *Manager) Free(dir, name string) error {
	for _, folder := range append([]string{s.Dir}, s.Path...) {
		if folder == "" {
			continue
		}
		p := filepath.Join(folder, unit.File(name))
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if link, err := os.Readlink(p); err != nil || link != unit.Path(dir, name) {
			return fmt.Errorf("unit %s: %w: %s", unit.File(name), ErrInTheWay, p)
		}
	}
	return nil
}

// Linked tells whether systemd knows the unit of dir.
func (s *Manager) Linked(dir, name string) bool {
	link, err := os.Readlink(filepath.Join(s.Dir, unit.File(name)))
	return s.Dir != "" && err == nil && link == unit.Path(dir, name)
}

// Link makes the links in systemd's folder those of the units in dir, and returns the names
// of these. A unit whose flake is not registered is none.
func (s *Manager) Link(ctx context.Context, dir string) (names []string, err error) {
	var problems []error
	ours, left, err := units(dir)
	problems = append(problems, err)
	if s.Dir == "" {
		return ours, errors.Join(problems...)
	}
	changed := false
	for _, name := range ours {
		made, err := s.link(dir, name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		changed = changed || made
		names = append(names, name)
	}
	gone, err := s.unlink(dir, append(left, ours...))
	problems = append(problems, err)
	if changed || gone {
		problems = append(problems, s.reload(ctx))
	}
	return names, errors.Join(problems...)
}

// units are the names of those in dir, and of those that nothing can be said about.
func units(dir string) (ours, left []string, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, unit.Folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	problems := []error{err}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), unit.File(""))
		if !ok || !unit.ValidName(name) {
			continue
		}
		owner, err := owner(dir, name)
		switch {
		case err != nil:
			problems, left = append(problems, err), append(left, name)
		case owner == "":
			problems = append(problems, fmt.Errorf("unit %s: it is of no flake that is registered", unit.Path(dir, name)))
		default:
			ours = append(ours, name)
		}
	}
	return ours, left, errors.Join(problems...)
}

// owner returns the flake of a unit of dir, if it is registered.
func owner(dir, name string) (string, error) {
	text, err := os.ReadFile(unit.Path(dir, name))
	if err != nil {
		return "", fmt.Errorf("read unit: %w", err)
	}
	flake := unit.Owner(text)
	if flake == "" || filepath.Base(flake) != flake {
		return "", nil
	}
	_, err = os.Stat(filepath.Join(dir, flake+".yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for flake %s: %w", flake, err)
	}
	return flake, nil
}

// wants is the folder of what is started with the system.
func (s *Manager) wants() string { return filepath.Join(s.Dir, unit.Target(s.User)+".wants") }

// link makes the links of one unit: first that by which it is found.
func (s *Manager) link(dir, name string) (made bool, err error) {
	if err := s.Free(dir, name); err != nil {
		return false, err
	}
	if err := os.MkdirAll(s.wants(), 0o755); err != nil {
		return false, fmt.Errorf("link unit: %w", err)
	}
	for _, l := range [][2]string{
		{unit.Path(dir, name), filepath.Join(s.Dir, unit.File(name))},
		{"../" + unit.File(name), filepath.Join(s.wants(), unit.File(name))},
	} {
		switch err := os.Symlink(l[0], l[1]); {
		case err == nil:
			made = true
		case !errors.Is(err, fs.ErrExist):
			return made, fmt.Errorf("link unit: %w", err)
		}
	}
	return made, nil
}

// unlink removes the links to units of dir but for some.
func (s *Manager) unlink(dir string, but []string) (gone bool, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for units: %w", err)
	}
	var problems []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), unit.File(""))
		if !ok || slices.Contains(but, name) || !s.Linked(dir, name) {
			continue
		}
		gone = true
		// The first link is the last to go: it says that the other one is ours.
		for _, p := range []string{filepath.Join(s.wants(), unit.File(name)), filepath.Join(s.Dir, unit.File(name))} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, fmt.Errorf("unlink unit: %w", err))
			}
		}
	}
	return gone, errors.Join(problems...)
}

// reload has systemd read what has changed.
func (s *Manager) reload(ctx context.Context) error {
	if !s.Running {
		return nil
	}
	return s.tell(ctx, "daemon-reload")
}

// Start has systemd start units, and does not wait for it.
func (s *Manager) Start(ctx context.Context, names []string) error {
	if !s.Running || len(names) == 0 {
		return nil
	}
	args := []string{"start", "--no-block", "--"}
	for _, n := range names {
		args = append(args, unit.File(n))
	}
	return s.tell(ctx, args...)
}

// Stop stops a unit of dir and waits for its end. One that systemd does not know does not run.
func (s *Manager) Stop(ctx context.Context, dir, name string) error {
	if !s.Running || !s.Linked(dir, name) {
		return nil
	}
	return s.tell(ctx, "stop", "--", unit.File(name))
}

func (s *Manager) tell(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return command.Run(ctx, command.Cmd{Argv: append(slices.Clone(s.Systemctl), args...)})
}
