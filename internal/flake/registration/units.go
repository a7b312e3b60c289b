package registration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/flake/unit"
)

func (s *Store) units() string { return filepath.Join(s.dir, unit.Folder) }

// freshUnit is where the file of a unit waits for the moment.
func (s *Store) freshUnit(name string) string {
	return filepath.Join(s.units(), "."+unit.File(name)+".new")
}

// owner returns the flake of a unit; empty if there is no such file, or it is not ours.
func (s *Store) owner(name string) string {
	text, err := os.ReadFile(unit.Path(s.dir, name))
	if err != nil {
		return ""
	}
	return unit.Owner(text)
}

// unitsBut are the units of a flake without one.
func (s *Store) unitsBut(flake, but string) ([]string, error) {
	entries, err := os.ReadDir(s.units())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for units: %w", err)
	}
	var out []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), unit.File(""))
		if ok && name != but && unit.ValidName(name) && s.owner(name) == flake {
			out = append(out, name)
		}
	}
	return out, nil
}

// stop stops units that are to go.
func (s *Store) stop(names []string) error {
	var all []error
	for _, name := range names {
		if s.hooks.Stop == nil {
			break
		}
		if err := s.hooks.Stop(name); err != nil {
			all = append(all, fmt.Errorf("stop unit %s: %w", unit.File(name), err))
		}
	}
	return errors.Join(all...)
}

// finishUnits makes the units of a flake what they are to be: those after the change, or
// those before it.
func (s *Store) finishUnits(flake string, j journal, changed bool) error {
	if j.Unit == "" && len(j.GoneUnits) == 0 {
		return nil
	}
	var all []error
	if fresh := s.freshUnit(j.Unit); j.Unit != "" && there(fresh) {
		place := unit.Path(s.dir, j.Unit)
		if changed && (!there(place) || s.owner(j.Unit) == flake) {
			all = append(all, s.ops.rename(fresh, place))
		} else {
			all = append(all, s.ops.remove(fresh))
		}
	}
	for _, name := range j.GoneUnits {
		if changed && s.owner(name) == flake {
			all = append(all, s.ops.remove(unit.Path(s.dir, name)))
		}
	}
	if there(s.units()) {
		all = append(all, s.ops.sync(s.units()))
	}
	return errors.Join(all...)
}
