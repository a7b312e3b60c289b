package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"golang.org/x/sys/unix"
)

// LockFile keeps two runs apart.
const LockFile = "/run/os-update.lock"

// lock takes the lock, waiting for at most wait. The kernel lets go of it when
// the process ends, however that happens.
func lock(ctx context.Context, path string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	// A --status that looks holds the lock for an instant; that is no other run.
	deadline := time.After(max(wait, 300*time.Millisecond))
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-deadline:
			f.Close()
			return nil, cli.Refuse(cli.Locked, fmt.Errorf("lock %s: another os-update is running", path), "wait until it has ended, `os-update --status` shows what it does")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// isLocked looks whether another run holds the lock, without taking it for
// longer than that.
func (u *Updater) isLocked() bool {
	f, err := os.Open(u.Lock)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
