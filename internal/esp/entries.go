package esp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/OSInside/eos/internal/fat"
)

// fatEntries are those of a FAT volume. Every change is one sector.
type fatEntries struct{ v *fat.Volume }

func (e fatEntries) claim(f firmware) error {
	// A cut while the kernel gave clusters to a file, or took them from it, can leave the
	// file with clusters that are free, and that the next file gets as well. Nobody needs
	// what is beside the live file: it is let go of. Where any other file is damaged, the
	// clusters that a new one gets might not stay its own.
	for _, name := range []string{f.fresh, f.previous} {
		if err := e.mend(name); err != nil {
			return err
		}
	}
	if d := e.v.Damage(); len(d) > 0 {
		return fmt.Errorf("the file system is damaged: %s", d[0])
	}
	_, fresh := e.v.Find(f.fresh)
	_, previous := e.v.Find(f.previous)
	switch {
	case fresh && previous:
		return fmt.Errorf("there are both %s and %s: one of them was not made here", f.fresh, f.previous)
	case previous:
		return e.v.Rename(f.previous, f.fresh)
	}
	return nil
}

func (e fatEntries) mend(name string) error {
	if slices.ContainsFunc(e.v.Damage(), func(d fat.Damage) bool { return d.Of(name) }) {
		return e.v.Detach(name)
	}
	return nil
}

func (e fatEntries) sum(ctx context.Context, name string) ([]byte, error) { return e.v.Sum(ctx, name) }

func (e fatEntries) replace(f firmware) error {
	if d := e.v.Damage(); len(d) > 0 {
		return fmt.Errorf("the file system is damaged: %s", d[0])
	}
	return e.v.Switch(f.live, f.fresh, f.previous)
}

// folderEntries are those of a plain folder, on a file system that keeps its promises.
type folderEntries struct{ dir string }

func (e folderEntries) path(name string) string { return filepath.Join(e.dir, name) }

func (e folderEntries) claim(f firmware) error {
	if _, err := os.Lstat(e.path(f.fresh)); err == nil {
		err := os.Remove(e.path(f.previous)) // the same file as live, after a cut in replace
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	err := os.Rename(e.path(f.previous), e.path(f.fresh))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

func (e folderEntries) mend(string) error { return nil }

func (e folderEntries) sum(ctx context.Context, name string) ([]byte, error) {
	sum, _, err := hashFile(ctx, e.path(name))
	return sum, err
}

func (e folderEntries) replace(f firmware) error {
	if err := os.Link(e.path(f.live), e.path(f.previous)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(e.path(f.fresh), e.path(f.live)); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(e.path(f.live)))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
