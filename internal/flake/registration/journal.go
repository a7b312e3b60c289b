package registration

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/unit"
)

// journal is what belongs to a change besides NAME.yaml, and how to tell whether the change
// has come to its moment.
type journal struct {
	Before  string   `json:"before"` // SHA-256 of NAME.yaml; empty: there is none
	After   string   `json:"after"`
	Made    []string `json:"made"`     // links that come with the change
	Gone    []string `json:"gone"`     // links that go with it
	Folders []string `json:"folders"`  // that come with it, the highest first
	DropIns bool     `json:"drop_ins"` // they go with it, and so does what it leaves: the flake is taken out

	Unit      string   `json:"unit"`       // comes with it; empty: none does
	GoneUnits []string `json:"gone_units"` // go with it

	Leaves string `json:"leaves"` // by a flake that is taken out
}

func sum(text []byte) string { return fmt.Sprintf("%x", sha256.Sum256(text)) }

// now is what NAME.yaml is, as Before and After are.
func (s *Store) now(name string) (string, error) {
	text, err := os.ReadFile(s.yaml(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum(text), err
}

// begin writes the journal. The file is whole, or it is not read: nothing has happened then.
func (s *Store) begin(name string, j journal) error {
	data, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	return errors.Join(s.ops.write(s.journal(name), data), s.ops.sync(s.dir))
}

// finish makes everything agree with NAME.yaml as it is now, and forgets the journal. It is
// how each change ends, whether it has come to its moment or not. If NAME.yaml is neither
// what it was nor what it was to become, somebody has written it since: what there is may
// then be in use, and stays.
func (s *Store) finish(name string, j journal) error {
	now, err := s.now(name)
	if err != nil {
		return err
	}
	var all []error
	drop := func(path string) {
		if !there(path) {
			return // a disk that is read-only would complain
		}
		// A folder that somebody has put something into stays.
		if err := s.ops.remove(path); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			all = append(all, err)
		}
	}
	drop(s.fresh(name))
	all = append(all, s.finishUnits(name, j, now == j.After))
	var links []string
	switch now {
	case j.After:
		links = j.Gone
		if j.DropIns && there(s.dropIns(name)) {
			all = append(all, s.ops.removeAll(s.dropIns(name)))
		}
	case j.Before:
		links = j.Made
	default:
		j.Folders = nil
	}
	for _, link := range links {
		if isLink(link) {
			drop(link)
		}
	}
	if now != j.After {
		for _, dir := range slices.Backward(j.Folders) {
			drop(dir)
		}
	}
	all = append(all, s.ops.sync(s.dir))
	if j.DropIns && now == "" && s.hooks.Forget != nil {
		all = append(all, s.hooks.Forget(name, j.Leaves))
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	return s.ops.remove(s.journal(name))
}

// describe reads what is registered. A broken drop-in does not hide what its file says.
func (s *Store) describe(name string) flake.Entry {
	files, err := flake.ReadFiles(s.dir, name)
	if err != nil {
		return flake.Entry{Err: err}
	}
	e := flake.Describe(name, files)
	if first := flake.Describe(name, files[:1]); e.Err != nil && first.Err == nil {
		return first
	}
	return e
}

// recoverAll ends what earlier runs have begun. What cannot be ended is tried again by the
// next run, and keeps nobody from anything else.
func (s *Store) recoverAll() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("open registrations: %w", err)
	}
	for _, e := range entries {
		name, ours := strings.CutSuffix(strings.TrimPrefix(e.Name(), "."), ".journal")
		if !ours || e.Name()[0] != '.' || !flake.ValidName(name) {
			continue
		}
		var j journal
		data, err := os.ReadFile(s.journal(name))
		if err == nil {
			if json.Unmarshal(data, &j) != nil {
				// Cut while it was written: nothing else has happened.
				j = journal{Before: "nothing", After: "nothing"}
			}
			err = s.finish(name, j.ours(name))
		}
		if err != nil {
			s.Left = append(s.Left, fmt.Errorf("clear up after an earlier run, for flake %s: %w", name, err))
		}
	}
	return nil
}

// ours leaves out what no change of this flake can have noted.
func (j journal) ours(name string) journal {
	other := func(link string) bool { return !filepath.IsAbs(link) || filepath.Base(link) != name }
	j.Made, j.Gone = slices.DeleteFunc(j.Made, other), slices.DeleteFunc(j.Gone, other)
	j.Folders = slices.DeleteFunc(j.Folders, func(dir string) bool { return !filepath.IsAbs(dir) })
	if !unit.ValidName(j.Unit) {
		j.Unit = ""
	}
	j.GoneUnits = slices.DeleteFunc(j.GoneUnits, func(u string) bool { return !unit.ValidName(u) })
	return j
}
