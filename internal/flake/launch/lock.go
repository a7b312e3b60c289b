package launch

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// fileLock is a lock on a file that may be removed by whoever holds it.
type fileLock struct{ f *os.File }

// takeLock waits for a lock.
func takeLock(path string) (*fileLock, error) { return openLock(path, syscall.LOCK_EX) }

// tryLock takes a lock, or is told [ErrBusy].
func tryLock(path string) (*fileLock, error) { return openLock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

func openLock(path string, how int) (*fileLock, error) {
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
				return &fileLock{f}, nil
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

// close gives the lock free. It may be called twice.
func (l *fileLock) close() { l.f.Close() }

// drop removes the file and gives the lock free.
func (l *fileLock) drop() {
	_ = os.Remove(l.f.Name()) // one that stays does no harm
	l.close()
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
