package kmod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Loader loads modules with their dependencies into the running kernel.
type Loader struct {
	// Index says what belongs together.
	Index *Index
	// Dir is the folder the index was read from.
	Dir string
	// Params holds the parameters of each module by canonical name, as
	// the kernel takes them: "a=1 b". See [Params].
	Params map[string]string

	loaded map[string]bool
	insert func(file, params string) error // nil: the system call
}

// Load loads a module and everything it needs. What is loaded already, by this
// Loader or anyone else, or is built in, is not an error.
func (l *Loader) Load(name string) error {
	order, err := l.Index.Order(name)
	if err != nil {
		return err
	}
	insert := l.insert
	if insert == nil {
		insert = finit
	}
	for _, m := range order {
		if l.loaded[m] {
			continue
		}
		file := filepath.Join(l.Dir, filepath.FromSlash(l.Index.Path(m)))
		if err := insert(file, l.Params[m]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", m, err)
		}
		if l.loaded == nil {
			l.loaded = map[string]bool{}
		}
		l.loaded[m] = true
	}
	return nil
}

func finit(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil {
		return &os.PathError{Op: "finit_module", Path: file, Err: err}
	}
	return nil
}
