package registration

import (
	"errors"
	"os"
	"path/filepath"
)

// operations are all that changes a disk here, so that tests can cut between any two.
type operations interface {
	mkdir(path string) error
	write(path string, data []byte) error // a file that is on the disk when this returns
	symlink(target, path string) error
	rename(from, to string) error
	remove(path string) error // a file, a link or an empty folder
	removeAll(path string) error
	sync(dir string) error // the names in a folder
}

// disk does them.
type disk struct{}

func (disk) symlink(target, path string) error { return os.Symlink(target, path) }
func (disk) rename(from, to string) error      { return os.Rename(from, to) }
func (disk) remove(path string) error          { return os.Remove(path) }
func (disk) removeAll(path string) error       { return os.RemoveAll(path) }

func (disk) mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755) // whatever the umask: users start flakes
}

func (disk) write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// Whatever the umask: a registration is read by all.
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}

func (disk) sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// parents returns the folders above path that are not there, the highest first.
func parents(path string) []string {
	var out []string
	for dir := filepath.Dir(path); !there(dir); dir = filepath.Dir(dir) {
		out = append([]string{dir}, out...)
	}
	return out
}
