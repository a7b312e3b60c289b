package sweep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/flake/lockfile"
)

// Folders removes what was left of images that were being put together, and returns it.
//
// Package assemble makes such folders while it holds a lock: what is there when we hold it,
// nobody is at work on. Without the folder of the lock, nobody is.
func (s *Store) Folders() ([]string, error) {
	if s.Root == "" {
		return nil, nil
	}
	pattern := filepath.Join(s.Root, "tmp", assemble.Unfinished+"*")
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	switch l, err := lockfile.Try(filepath.Join(s.Run, assemble.LockFile)); {
	case err == nil:
		defer l.Close()
		if found, err = filepath.Glob(pattern); err != nil {
			return nil, err
		}
	case errors.Is(err, lockfile.ErrBusy):
		return nil, nil // who is at work removes them
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	var out []string
	var problems []error
	for _, dir := range found {
		if err := os.RemoveAll(dir); err != nil {
			problems = append(problems, fmt.Errorf("remove what was left: %w", err))
			continue
		}
		out = append(out, dir)
	}
	return out, errors.Join(problems...)
}

// forget removes what launchers have noted of a container. They look for it themselves where
// that is missing; a lock that somebody holds stays.
func (s *Store) forget(container string) error {
	path := func(ending string) string { return filepath.Join(s.Run, flake.StateFile(container, ending)) }
	if err := os.Remove(path(".cid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget container %s: %w", container, err)
	}
	if _, err := os.Stat(path(".lock")); err != nil {
		return nil
	}
	if l, err := lockfile.Try(path(".lock")); err == nil {
		l.Drop()
	}
	return nil
}
