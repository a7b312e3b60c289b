package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
)

// plainModules replaces the compressed kernel modules in t by plain ones: the
// file system compresses them better together, and a small change in one stays
// a small change. The result of the last kernel is kept in the cache.
func (t *tree) plainModules(ctx context.Context, tools *toolstree.Tree, cache, version string) (*os.File, error) {
	dir := "/usr/lib/modules/" + version
	if t.get(dir) == nil {
		return nil, fmt.Errorf("unpack kernel modules: the image has no %s", dir)
	}
	h := sha256.New()
	fmt.Fprintf(h, "modules 1 %s %s\n", tools, version)
	for _, p := range t.below(dir) {
		n := t.get(p)
		fmt.Fprintf(h, "%s %c %q %d\n", p, n.typ, n.link, n.size)
		if _, err := io.Copy(h, n.content()); err != nil {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
	}
	cached := filepath.Join(cache, fmt.Sprintf("modules-%x.tar", h.Sum(nil)[:8]))
	if _, err := os.Stat(cached); err != nil {
		if err := t.unpackModules(ctx, tools, dir, version, cached); err != nil {
			return nil, fmt.Errorf("unpack kernel modules: %w", err)
		}
	}
	f, err := os.Open(cached)
	if err != nil {
		return nil, err
	}
	plain, err := readTree(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	t.remove(dir)
	t.mkdir(dir, 0o755)
	for _, p := range plain.below(dir) {
		t.put(p, plain.get(p))
	}
	return f, nil
}

// unpackModules writes the module tree to the tar archive out.
func (t *tree) unpackModules(ctx context.Context, tools *toolstree.Tree, dir, version, out string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(out), "modules.new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := t.extract(dir, tmp); err != nil {
		return err
	}
	// depmod looks below /lib.
	if err := os.Symlink("usr/lib", filepath.Join(tmp, "lib")); err != nil {
		return err
	}
	// The whole work is one program start, not one for each module.
	unpack := `find "$1" -name '*.ko.xz' -print0 | xargs -0 -r -n 50 -P "$(nproc)" xz -d &&
find "$1" -name '*.ko.zst' -print0 | xargs -0 -r -n 50 zstd -q -d --rm &&
depmod -b "$2" "$3"`
	if err := command.Run(ctx, tools.Command("sh", "-c", unpack, "sh",
		filepath.Join(tmp, dir), tmp, version)); err != nil {
		return err
	}
	plain := newTree()
	err = filepath.WalkDir(filepath.Join(tmp, dir), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, tmp)
		switch {
		case d.IsDir():
			plain.mkdir(name, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			plain.symlink(name, target)
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			plain.write(name, 0o644, data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return writeFile(out, plain.writeTar)
}

// extract writes the files below dir to the host's folder tmp, all of them the
// caller's own.
func (t *tree) extract(dir, tmp string) error {
	if err := os.MkdirAll(filepath.Join(tmp, dir), 0o755); err != nil {
		return err
	}
	for _, p := range t.below(dir) {
		n, target := t.get(p), filepath.Join(tmp, p)
		var err error
		switch n.typ {
		case tar.TypeDir:
			err = os.Mkdir(target, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(n.link, target)
		case tar.TypeReg:
			err = writeFile(target, func(w io.Writer) error {
				_, err := io.Copy(w, n.content())
				return err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
