package lockfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/OSInside/eos/internal/flake/lockfile"
)

// A lock that is removed while others wait for it still lets one at a time in.
func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var all sync.WaitGroup
	var in, most, times int
	var mu sync.Mutex
	for i := range 20 {
		all.Go(func() {
			for range 50 {
				l, err := lockfile.Take(path)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				in++
				most, times = max(most, in), times+1
				mu.Unlock()
				if _, err := lockfile.Try(path); !errors.Is(err, lockfile.ErrBusy) {
					t.Errorf("Try of a lock that is held = %v", err)
				}
				mu.Lock()
				in--
				mu.Unlock()
				if i%2 == 0 {
					l.Drop()
				} else {
					l.Close()
				}
			}
		})
	}
	all.Wait()
	if most != 1 || times != 1000 {
		t.Errorf("%d were in at once, %d times", most, times)
	}
	if err := errors.Join(os.RemoveAll(path), os.Symlink("/etc/passwd", path)); err != nil {
		t.Fatal(err)
	}
	if _, err := lockfile.Take(path); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("Take of a link = %v", err)
	}
}
