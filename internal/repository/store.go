package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Store is where a repository's files are. Names are slash-separated
// relative paths. All calls may wait and end with the context; readers and one
// writer may use a Store at the same time.
type Store interface {
	// Init makes an empty store ready for a repository. One that holds something
	// else is ErrNotRepository.
	Init(ctx context.Context) error
	// Open returns a file's content, or an error that is fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// Put makes name hold what r gives. A reader sees what was there before
	// or all of the new content, also when the writer is killed half-way, and
	// on return the new content is durable. If r fails, name is unchanged.
	Put(ctx context.Context, name string, r io.Reader) error
	// List returns the files below the folder prefix, sorted by name. What an
	// interrupted Put left is not among them.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Remove removes a file. One that is not there is no error. Who reads it
	// may be disturbed.
	Remove(ctx context.Context, name string) error
	// Lock keeps other publishers out until unlock. It does not wait: a store
	// that is locked gives an error that is ErrLocked. A store that has no locks
	// gives that error from Put, if another publisher was faster.
	Lock(ctx context.Context) (unlock func() error, err error)
	// String names the store in messages.
	String() string
}

// An Entry is one file of a Store.
type Entry struct {
	Name    string
	Size    int64
	ModTime time.Time // when it was put there
}

// folder is a Store in a local folder.
type folder struct {
	dir string
	// step, if set, is called before each change to the file system with its
	// name. An error stops there and cleans nothing up, as if killed.
	step func(op string) error
}

const (
	tempPrefix = ".eos-new-" // files not complete yet; package serve hides dot files
	lockName   = ".lock"
)

// Belongs says whether name may be in the topmost folder of a repository.
func Belongs(name string) bool { return name == "metadata" || name == "targets" || name == lockName }

// Folder returns the Store in a local folder. It need not exist.
func Folder(dir string) Store { return &folder{dir: dir} }

// errKilled wraps what a step function returned.
type errKilled struct{ error }

func (e errKilled) Unwrap() error { return e.error }

func (f *folder) String() string { return f.dir }

func (f *folder) at(op string) error {
	if f.step == nil {
		return nil
	}
	if err := f.step(op); err != nil {
		return errKilled{err}
	}
	return nil
}

func (f *folder) Init(context.Context) error {
	if err := f.makeDir(f.dir); err != nil {
		return fmt.Errorf("make repository %s: %w", f.dir, err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("make repository %s: %w", f.dir, err)
	}
	for _, e := range entries {
		if !Belongs(e.Name()) {
			return fmt.Errorf("make repository %s: %w: it holds %s", f.dir, ErrNotRepository, e.Name())
		}
	}
	return nil
}

func (f *folder) Open(_ context.Context, name string) (io.ReadCloser, error) {
	file, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	return file, nil
}

func (f *folder) Put(ctx context.Context, name string, r io.Reader) error {
	final := filepath.Join(f.dir, filepath.FromSlash(name))
	dir := filepath.Dir(final)
	if err := f.makeDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.at("create " + name); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = f.fill(ctx, temp, final, name, r)
	var killed errKilled
	if err != nil && !errors.As(err, &killed) {
		temp.Close()
		os.Remove(temp.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return err
}

// fill writes temp and puts it in its final place.
func (f *folder) fill(ctx context.Context, temp *os.File, final, name string, r io.Reader) error {
	if err := f.at("write " + name); err != nil {
		return err
	}
	if _, err := io.Copy(temp, readerContext{ctx, r}); err != nil {
		return err
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := f.at("sync " + name); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := f.at("rename " + name); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), final); err != nil {
		return err
	}
	if err := f.at("sync folder of " + name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(final))
}

// makeDir makes dir and its parents, each durable before what goes into it.
func (f *folder) makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := f.makeDir(parent); err != nil {
			return err
		}
	}
	if err := f.at("make folder " + dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (f *folder) List(_ context.Context, prefix string) ([]Entry, error) {
	var entries []Entry
	root := filepath.Join(f.dir, filepath.FromSlash(prefix))
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the prefix, or removed just now
		}
		if err != nil {
			return err
		}
		if d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed just now
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(f.dir, p)
		entries = append(entries, Entry{Name: filepath.ToSlash(rel), Size: info.Size(), ModTime: info.ModTime()})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (f *folder) Remove(_ context.Context, name string) error {
	if err := f.at("remove " + name); err != nil {
		return err
	}
	path := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	// A folder goes with its last file.
	for dir := filepath.Dir(path); dir != f.dir && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// Lock takes the lock and clears away what killed publishers left.
func (f *folder) Lock(context.Context) (func() error, error) {
	file, err := os.OpenFile(filepath.Join(f.dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock repository: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock repository %s: %w", f.dir, err)
	}
	err = filepath.WalkDir(f.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(d.Name(), tempPrefix) {
			err = os.Remove(p)
		}
		return err
	})
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("clear away what an earlier publisher left: %w", err)
	}
	// The lock goes with the descriptor, so a killed publisher leaves none.
	return file.Close, nil
}

// readerContext ends reading with a context.
type readerContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
