// Package registration writes what package flake reads: it registers flakes and takes them
// out again. A registration is a file NAME.yaml, a folder NAME.d beside it, and a link from
// the command to the launcher.
//
// [Options.Text] makes the text, a function of its arguments. [Open] locks a folder of
// registrations and clears up after a run that did not come to its end; [Store.Add] and
// [Store.Remove] then change it.
//
// Each change is a transaction, also when it is killed: there is one moment, the rename of a
// whole NAME.yaml into its place or its removal, before which nothing has changed for
// anybody who lists or starts flakes, and after which everything has. What is beside it is
// made before (the link, the folder) or removed after. A journal, the file .NAME.journal,
// holds which these are; the next Open makes them agree with NAME.yaml, whichever it finds.
//
// A flake may have a unit of systemd (package unit), a file in the folder units beside the
// registrations. The new one lies there under another name until the moment has come, and is
// put in its place after it. A file of another flake is in the way.
//
// Only links to the launcher, files in the folder of registrations and empty folders that
// were made here are ever removed or replaced: a command that is anything else is
// [ErrInTheWay], forced or not. Drop-ins in NAME.d are kept when a flake is registered again
// and go when it is removed.
//
// Folders are locked as a whole, so several programs may do this at once. It runs no other
// programs, and knows nothing of images of containers.
package registration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Pilot is the launcher behind commands that are containers.
const Pilot = "/usr/bin/podman-pilot"

// Reasons for a change that is not made.
var (
	ErrInTheWay      = errors.New("it is in the way")
	ErrNotRegistered = errors.New("it is not registered")
	ErrLocked        = errors.New("another flake-ctl is at work")
)

// patience is how long a lock is waited for. Who holds it does a few things with files.
const patience = 10 * time.Second

// lockFile is what is locked. It stays.
const lockFile = ".lock"

// Hooks is what others have to do with changes; each may be nil.
type Hooks struct {
	// Stop is called with each unit that is to go, before anything has changed. Without force,
	// nothing changes where it fails.
	Stop func(unit string) error
	// Forget is called with a flake that was taken out and what [Store.Remove] was told of what it
	// leaves, and removes that. It is part of the change: where it fails or is cut off, the next
	// Open calls it again, unless there is such a flake again.
	Forget func(flake, leaves string) error
}

// Store is a folder of registrations, locked.
type Store struct {
	Left []error // what of earlier runs could not be cleared up

	hooks Hooks
	dir   string
	lock  *os.File
	ops   operations
}

// Open makes the folder if need be, locks it and clears up in it.
func Open(ctx context.Context, dir string, hooks Hooks) (*Store, error) {
	return open(ctx, dir, hooks, disk{})
}

func open(ctx context.Context, dir string, hooks Hooks, ops operations) (*Store, error) {
	if target, err := os.Readlink(dir); err == nil { // MkdirAll follows no link that leads nowhere
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(dir), target)
		}
		dir = target
	}
	if !there(dir) {
		// Whatever the umask: registrations are read by all.
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return nil, fmt.Errorf("open registrations: %w", err)
		}
	}
	// Not the folder itself, which anybody could lock.
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open registrations: %w", err)
	}
	s := &Store{hooks: hooks, dir: dir, lock: f, ops: ops}
	opened := false
	defer func() {
		if !opened {
			f.Close()
		}
	}()
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	if err := s.recoverAll(); err != nil {
		return nil, err
	}
	opened = true
	return s, nil
}

// wait takes the lock.
func (s *Store) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("open registrations in %s: %w", s.dir, ErrLocked))
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			if err != nil {
				return &fs.PathError{Op: "lock", Path: s.dir, Err: err}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
		}
	}
}

// Close gives the folder free.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) yaml(name string) string    { return filepath.Join(s.dir, name+".yaml") }
func (s *Store) dropIns(name string) string { return filepath.Join(s.dir, name+".d") }
func (s *Store) fresh(name string) string   { return filepath.Join(s.dir, "."+name+".new") }
func (s *Store) journal(name string) string { return filepath.Join(s.dir, "."+name+".journal") }

// isLink tells whether there is a link to the launcher.
func isLink(path string) bool {
	target, err := os.Readlink(path)
	return err == nil && target == Pilot
}

// there tells whether there is anything.
func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
