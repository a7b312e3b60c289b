package registration

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/unit"
)

// Add registers a flake. With replace, one of the same name is replaced in one moment, and
// a link to the launcher at its command is taken over; anything else there is never touched.
func (s *Store) Add(o Options, replace bool) error {
	name := o.Name()
	text, err := o.Text()
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("register flake %s: %w", name, err) }
	var service []byte
	if o.Unit != "" {
		if service, err = o.UnitText(); err != nil {
			return err
		}
	}
	linked := isLink(o.App)
	switch {
	case there(o.App) && !linked:
		return fail(fmt.Errorf("%s is no flake: %w", o.App, ErrInTheWay))
	case linked && !replace:
		return fail(fmt.Errorf("%s: %w", o.App, ErrInTheWay))
	case there(s.yaml(name)) && !replace:
		return fail(fmt.Errorf("%s: %w", s.yaml(name), ErrInTheWay))
	case o.Unit != "" && there(unit.Path(s.dir, o.Unit)) && s.owner(o.Unit) != name:
		return fail(fmt.Errorf("%s is of another flake: %w", unit.Path(s.dir, o.Unit), ErrInTheWay))
	}
	j := journal{After: sum(text)}
	if j.Before, err = s.now(name); err != nil {
		return fail(err)
	}
	if !linked {
		j.Made, j.Folders = []string{o.App}, parents(o.App)
	}
	if old := s.describe(name); old.Err == nil && old.Host != o.App && filepath.Base(old.Host) == name {
		j.Gone = []string{old.Host}
	}
	if !there(s.dropIns(name)) {
		j.Folders = append(j.Folders, s.dropIns(name))
	}
	if j.Unit = o.Unit; j.Unit != "" && !there(s.units()) {
		j.Folders = append(j.Folders, s.units())
	}
	if j.GoneUnits, err = s.unitsBut(name, o.Unit); err != nil {
		return fail(err)
	}
	if err := s.stop(j.GoneUnits); err != nil && !replace {
		return fail(err)
	}
	if err := s.add(o, text, service, j, linked); err != nil {
		// Take back what was prepared. Without a journal, not even a part of one, it is nothing.
		if there(s.journal(name)) {
			err = errors.Join(err, s.finish(name, j))
		}
		return fail(err)
	}
	if err := s.finish(name, j); err != nil {
		return fail(err)
	}
	return nil
}

// add does what leads up to the moment, and that.
func (s *Store) add(o Options, text, service []byte, j journal, linked bool) error {
	name := o.Name()
	if err := s.begin(name, j); err != nil {
		return err
	}
	for _, dir := range j.Folders {
		if err := s.ops.mkdir(dir); err != nil {
			return err
		}
	}
	if !linked {
		// It is a new link or an error, never one over something.
		if err := s.ops.symlink(Pilot, o.App); err != nil {
			return err
		}
		if err := s.ops.sync(filepath.Dir(o.App)); err != nil {
			return err
		}
	}
	if j.Unit != "" {
		if err := errors.Join(s.ops.write(s.freshUnit(j.Unit), service), s.ops.sync(s.units())); err != nil {
			return err
		}
	}
	if err := s.ops.write(s.fresh(name), text); err != nil {
		return err
	}
	if err := s.ops.rename(s.fresh(name), s.yaml(name)); err != nil {
		return err
	}
	return s.ops.sync(s.dir)
}

// Remove takes a flake out: of app if that is not empty, else wherever its registration
// says. Without force it has to be one, and app has to be its link. With force, what is
// there of it goes. What it leaves, in words of the caller's, is for [Hooks.Forget]. It returns
// what is at the command and stays, because it is no flake.
func (s *Store) Remove(name, app, leaves string, force bool) (kept []string, err error) {
	fail := func(err error) error { return fmt.Errorf("remove flake %s: %w", name, err) }
	e := s.describe(name)
	registered := there(s.yaml(name))
	switch {
	case !registered && !force:
		return nil, fail(ErrNotRegistered)
	case !force && e.Err != nil:
		return nil, fail(e.Err)
	case !force && e.Engine != flake.EnginePodman:
		return nil, fail(fmt.Errorf("it is one of %s: %w", e.Engine, ErrInTheWay))
	case !force && app != "" && e.Host != app:
		return nil, fail(fmt.Errorf("its command is %s, not %s: %w", e.Host, app, ErrInTheWay))
	case !force && there(e.Host) && !isLink(e.Host):
		return nil, fail(fmt.Errorf("%s is no flake: %w", e.Host, ErrInTheWay))
	}
	j := journal{DropIns: true, Leaves: leaves}
	if j.Before, err = s.now(name); err != nil {
		return nil, fail(err)
	}
	for _, link := range slices.Compact([]string{e.Host, app}) {
		switch {
		case link == "" || filepath.Base(link) != name || !there(link):
		case isLink(link):
			j.Gone = append(j.Gone, link)
		default:
			kept = append(kept, link)
		}
	}
	if j.GoneUnits, err = s.unitsBut(name, ""); err != nil {
		return kept, fail(err)
	}
	if !registered && len(j.Gone) == 0 && len(j.GoneUnits) == 0 && !there(s.dropIns(name)) {
		return kept, fail(ErrNotRegistered)
	}
	if err := s.stop(j.GoneUnits); err != nil && !force {
		return kept, fail(err)
	}
	if err := s.begin(name, j); err != nil {
		if there(s.journal(name)) {
			err = errors.Join(err, s.ops.remove(s.journal(name)))
		}
		return kept, fail(err)
	}
	if registered {
		if err := s.ops.remove(s.yaml(name)); err != nil {
			return kept, fail(errors.Join(err, s.ops.remove(s.journal(name))))
		}
		if err := s.ops.sync(s.dir); err != nil {
			return kept, fail(err)
		}
	}
	if err := s.finish(name, j); err != nil {
		return kept, fail(err)
	}
	return kept, nil
}
