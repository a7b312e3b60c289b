package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// write makes the file path, for its owner alone, with all of data or not at all: whoever
// opens the name finds the old file or the new one, whatever is cut.
func (d *Device) write(ctx context.Context, path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := d.cut(ctx, "make file"); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-") // mode 0600
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it never had a name that counts
		}
	}()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := f.Write(data); return err }},
		{"sync file", f.Sync},
		{"close", f.Close},
		{"rename", func() error { return os.Rename(f.Name(), path) }},
		{"sync folder", func() error { return syncFolder(dir) }},
	} {
		if err := d.cut(ctx, step.name); err != nil {
			f.Close()
			return err
		}
		if err := step.do(); err != nil {
			f.Close()
			return fmt.Errorf("write key: %s: %w", step.name, err)
		}
	}
	return nil
}

// syncFolder makes the names in a folder last.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	// A folder is not written through its descriptor, closing it has nothing to report.
	defer f.Close()
	return f.Sync()
}

// lock makes the folder of the key if need be and holds it against other runs. What cuts
// have left there is removed.
func (d *Device) lock() (unlock func(), err error) {
	_, err = os.Stat(d.State)
	isNew := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(d.State, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the key: %w", err)
	}
	if err := os.Chmod(d.State, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the key: %w", err)
	}
	if isNew {
		if err := syncFolder(filepath.Dir(d.State)); err != nil {
			return nil, fmt.Errorf("make folder of the key: %w", err)
		}
	}
	f, err := os.Open(d.State)
	if err != nil {
		return nil, fmt.Errorf("lock folder of the key: %w", err)
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock folder of the key %s: %w", d.State, err)
	}
	left, err := filepath.Glob(filepath.Join(d.State, ".*.new-*"))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("look for leftovers in %s: %w", d.State, err)
	}
	for _, name := range left {
		_ = os.Remove(name) // it is in nobody's way
	}
	return func() { f.Close() }, nil
}

// flock waits for the lock: those who hold it write a few hundred bytes.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
