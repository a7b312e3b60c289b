// Package lockfile locks by files that may be removed: what launchers of flakes, and those who
// clear up after them, do one at a time.
//
// [Take] waits for a lock, [Try] does not. A lock is held until it is given free by [Lock.Close]
// or the process ends, however it does. Who holds it may remove the file with [Lock.Drop]:
// somebody who has waited for it then locks the next file of that name.
package lockfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// ErrBusy says that somebody else holds a lock.
var ErrBusy = errors.New("somebody else holds the lock")

// Lock is one that is held.
type Lock struct{ f *os.File }

// Take waits for a lock, and makes its file if need be.
func Take(path string) (*Lock, error) { return open(path, syscall.LOCK_EX) }

// Try takes a lock, or returns [ErrBusy].
func Try(path string) (*Lock, error) { return open(path, syscall.LOCK_EX|syscall.LOCK_NB) }

func open(path string, how int) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
			err = syscall.Flock(int(f.Fd()), how)
		}
		if err == nil {
			// Who held it may have removed it: then it locks nothing any more.
			var ours, there os.FileInfo
			if ours, err = f.Stat(); err == nil {
				there, err = os.Lstat(path)
			}
			if err == nil && os.SameFile(ours, there) {
				return &Lock{f}, nil
			}
		}
		f.Close()
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return nil, ErrBusy
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
	}
}

// File is what a process inherits that is to hold the lock as well.
func (l *Lock) File() *os.File { return l.f }

// Close gives the lock free. It may be called twice.
func (l *Lock) Close() { l.f.Close() }

// Drop removes the file and gives the lock free.
func (l *Lock) Drop() {
	_ = os.Remove(l.f.Name()) // one that stays does no harm
	l.Close()
}
