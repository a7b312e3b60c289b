package unit

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
)

// System is a service manager, and where it finds units.
type System struct {
	Dir       string   // folder of systemd where the links go
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
func (s *System) Free(dir, name string) error {
	for _, folder := range slices.Compact(append([]string{s.Dir}, s.Path...)) {
		p := filepath.Join(folder, File(name))
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if link, err := os.Readlink(p); err != nil || link != Path(dir, name) {
			return fmt.Errorf("unit %s: %w: %s", File(name), ErrInTheWay, p)
		}
	}
	return nil
}

// Linked tells whether systemd knows the unit of dir.
func (s *System) Linked(dir, name string) bool {
	link, err := os.Readlink(filepath.Join(s.Dir, File(name)))
	return err == nil && link == Path(dir, name)
}

// Link makes the links in systemd's folder those of the units in dir, and returns the names
// of these. A unit whose flake is not registered is none.
func (s *System) Link(ctx context.Context, dir string) (names []string, err error) {
	var problems []error
	ours, left, err := units(dir)
	problems = append(problems, err)
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
	entries, err := os.ReadDir(filepath.Join(dir, Folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	problems := []error{err}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !ValidName(name) {
			continue
		}
		owner, err := owner(dir, name)
		switch {
		case err != nil:
			problems, left = append(problems, err), append(left, name)
		case owner == "":
			problems = append(problems, fmt.Errorf("unit %s: it is of no flake that is registered", Path(dir, name)))
		default:
			ours = append(ours, name)
		}
	}
	return ours, left, errors.Join(problems...)
}

// owner returns the flake of a unit of dir, if it is registered.
func owner(dir, name string) (string, error) {
	text, err := os.ReadFile(Path(dir, name))
	if err != nil {
		return "", fmt.Errorf("read unit: %w", err)
	}
	flake := Owner(text)
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
func (s *System) wants() string { return filepath.Join(s.Dir, target(s.User)+".wants") }

// link makes the links of one unit: first that by which it is found.
func (s *System) link(dir, name string) (made bool, err error) {
	if err := s.Free(dir, name); err != nil {
		return false, err
	}
	if err := os.MkdirAll(s.wants(), 0o755); err != nil {
		return false, fmt.Errorf("link unit: %w", err)
	}
	for _, l := range [][2]string{
		{Path(dir, name), filepath.Join(s.Dir, File(name))},
		{"../" + File(name), filepath.Join(s.wants(), File(name))},
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
func (s *System) unlink(dir string, but []string) (gone bool, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for units: %w", err)
	}
	var problems []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || slices.Contains(but, name) || !s.Linked(dir, name) {
			continue
		}
		gone = true
		// The first link is the last to go: it says that the other one is ours.
		for _, p := range []string{filepath.Join(s.wants(), File(name)), filepath.Join(s.Dir, File(name))} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, fmt.Errorf("unlink unit: %w", err))
			}
		}
	}
	return gone, errors.Join(problems...)
}

// reload has systemd read what has changed.
func (s *System) reload(ctx context.Context) error {
	if !s.Running {
		return nil
	}
	return s.tell(ctx, "daemon-reload")
}

// Start has systemd start units, and does not wait for it.
func (s *System) Start(ctx context.Context, names []string) error {
	if !s.Running || len(names) == 0 {
		return nil
	}
	args := []string{"start", "--no-block", "--"}
	for _, n := range names {
		args = append(args, File(n))
	}
	return s.tell(ctx, args...)
}

// Stop stops a unit of dir and waits for its end. One that systemd does not know does not run.
func (s *System) Stop(ctx context.Context, dir, name string) error {
	if !s.Running || !s.Linked(dir, name) {
		return nil
	}
	return s.tell(ctx, "stop", "--", File(name))
}

func (s *System) tell(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return command.Run(ctx, command.Cmd{Argv: append(slices.Clone(s.Systemctl), args...)})
}
