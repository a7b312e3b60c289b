package sweep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Folders removes what was left of images that were being put together, and returns it.
//
// Package assemble makes such folders while it holds a lock. What is listed before the lock is
// taken, and where there is no such file, nobody is at work on.
func (s *Store) Folders() ([]string, error) {
	if s.Root == "" {
		return nil, nil
	}
	found, err := filepath.Glob(filepath.Join(s.Root, "tmp", "flake-*"))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	free, busy, err := tryLock(filepath.Join(s.Run, "assemble.lock"))
	if err != nil || busy {
		return nil, err // who is at work removes them
	}
	defer free()
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

// tryLock takes the lock of a file, if that is there.
func tryLock(path string) (free func(), busy bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		return func() { f.Close() }, false, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, true, nil
	}
	return nil, false, &fs.PathError{Op: "lock", Path: path, Err: err}
}

var instance = regexp.MustCompile(`^(@[A-Za-z0-9@=_-]{1,63})?\.(cid|lock)$`)

// Forget removes what launchers have noted of a flake. They look for it themselves where that
// is missing; a lock that somebody holds stays.
func (s *Store) Forget(name string) error {
	entries, err := os.ReadDir(s.Run)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for what is known of flake %s: %w", name, err)
	}
	var problems []error
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), name)
		if !ours || !instance.MatchString(rest) {
			continue
		}
		path := filepath.Join(s.Run, e.Name())
		if strings.HasSuffix(rest, ".lock") {
			free, busy, err := tryLock(path)
			if err != nil || busy {
				problems = append(problems, err)
				continue
			}
			defer free()
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("forget flake %s: %w", name, err))
		}
	}
	return errors.Join(problems...)
}
