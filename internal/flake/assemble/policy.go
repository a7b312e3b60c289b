package assemble

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// HostPaths are what of the host an image may name, if flakes.yml does not say otherwise:
// programs and their data, which all users can read anyway.
var HostPaths = []string{"/usr", "/opt", "/etc/alternatives", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ssl/certs"}

// ErrHostPath says that an image wants something of the host that it may not have.
var ErrHostPath = errors.New("images may not have it")

// hostFile is a file of the host.
type hostFile struct {
	path string // no folder in it is a link
	info fs.FileInfo
}

// parseList reads a list of host paths, one a line.
func parseList(data []byte) ([]string, error) {
	var out []string
	for i, line := range bytes.Split(data, []byte("\n")) {
		text := strings.TrimSuffix(string(line), "\r")
		if text == "" {
			continue
		}
		if strings.ContainsRune(text, 0) {
			return nil, fmt.Errorf("line %d has a zero byte in it", i+1)
		}
		out = append(out, filepath.Clean("/"+text))
	}
	return out, nil
}

// choose looks at the files of the host that images name. Those that are not there are left
// out. One that the policy does not allow is an error: its folders are followed first, so a
// link of the host leads no further than its name.
func choose(paths, allowed []string) ([]hostFile, error) {
	var out []hostFile
	folders := map[string]string{}
	for _, path := range paths {
		dir, ok := folders[filepath.Dir(path)]
		if !ok {
			var err error
			if dir, err = real(filepath.Dir(path)); err != nil {
				return nil, fmt.Errorf("find %s: %w", path, err)
			}
			folders[filepath.Dir(path)] = dir
		}
		file := filepath.Join(dir, filepath.Base(path))
		// What the name leads to is as public as that, or the name tells what there is.
		if !below(file, allowed) {
			return nil, fmt.Errorf("%s: %w", path, ErrHostPath)
		}
		st, err := os.Lstat(file)
		if notThere(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", path, err)
		}
		if err := public(st); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, ErrHostPath, err)
		}
		out = append(out, hostFile{file, st})
	}
	return out, nil
}

// real is a folder without links; what of it is not there has none.
func real(dir string) (string, error) {
	out, err := filepath.EvalSymlinks(dir)
	if !notThere(err) || dir == "/" {
		return out, err
	}
	above, err := real(filepath.Dir(dir))
	return filepath.Join(above, filepath.Base(dir)), err
}

// notThere tells whether an error says that there cannot be such a file.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

// below tells whether a path is one of the allowed or below it.
func below(path string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		return path == a || strings.HasPrefix(path, strings.TrimSuffix(a, "/")+"/")
	})
}

// public says why not every user of the host could read a file.
func public(st fs.FileInfo) error {
	switch mode := st.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return nil
	case mode.IsDir() && mode.Perm()&0o005 == 0o005, mode.IsRegular() && mode.Perm()&0o004 != 0:
		return nil
	case mode.IsDir(), mode.IsRegular():
		return errors.New("not every user can read it")
	}
	return errors.New("it is neither a file, a folder nor a link")
}
