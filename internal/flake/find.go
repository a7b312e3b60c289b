package flake

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds a file of a registration.
const maxFile = 1 << 20

// NotFoundError says that no flake of a name is registered.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("find flake %q: it is not registered", e.Name)
}

// Find reads the registration of name: from dir, the registry's, or else from shipped, the
// image's. A folder in the registry that cannot be read does not hide what is in the image.
func Find(dir, shipped, name string) (*Registration, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	files, own := ReadFiles(dir, name)
	if own == nil {
		return Parse(name, files)
	}
	files, err := ReadFiles(shipped, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(own, fs.ErrNotExist):
		return nil, own
	case errors.Is(err, fs.ErrNotExist):
		return nil, &NotFoundError{name}
	case err != nil:
		return nil, err
	}
	r, err := Parse(name, files)
	if err != nil {
		return nil, err
	}
	r.Shipped = true
	return r, nil
}

// ReadFiles reads NAME.yaml and the plain files of NAME.d, whatever they are called, in the
// order of their names.
func ReadFiles(dir, name string) ([]File, error) {
	first, err := readFile(filepath.Join(dir, name+".yaml"))
	if err != nil {
		return nil, err
	}
	files := []File{first}
	dropIns := filepath.Join(dir, name+".d")
	entries, err := os.ReadDir(dropIns) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read registration of %s: %w", name, err)
	}
	for _, e := range entries {
		path := filepath.Join(dropIns, e.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue
		}
		f, err := readFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func readFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, fmt.Errorf("read registration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return File{}, fmt.Errorf("read registration: %w", err)
	}
	if len(text) > maxFile {
		return File{}, fmt.Errorf("read registration %s: longer than %d bytes", path, maxFile)
	}
	return File{Path: path, Text: text}, nil
}
