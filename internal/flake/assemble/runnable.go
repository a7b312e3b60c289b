package assemble

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Runnable says why the container of an image cannot start a program: fs.ErrNotExist or
// fs.ErrPermission. A name without a slash is looked for in folders.
func (s Store) Runnable(image, program string, folders []string) error {
	all, err := s.Images()
	if err != nil {
		return err
	}
	i, ok := Find(all, image)
	if !ok {
		return fmt.Errorf("find container %s: %w", image, fs.ErrInvalid)
	}
	chain, err := s.Chain(i)
	if err != nil {
		return err
	}
	t, err := openTree(chain)
	if err != nil {
		return err
	}
	defer t.close()
	if strings.Contains(program, "/") {
		return t.runnable(program)
	}
	err = fmt.Errorf("find %s: %w", program, fs.ErrNotExist)
	for _, dir := range folders {
		if t.runnable(path.Join(dir, program)) == nil {
			return nil
		}
	}
	return err
}

func (t tree) runnable(program string) error {
	st, err := t.stat(program)
	if err == nil && (!st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0) {
		err = fs.ErrPermission
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	return nil
}
