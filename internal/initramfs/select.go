package initramfs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/OSInside/eos/internal/kmod"
)

type moduleSet struct {
	files  []file // relative to the module tree of the initramfs
	report Report
}

// selectModules reads the wanted modules and all they depend on out of the tree,
// decompresses them and makes index files that name just these.
func selectModules(tree fs.FS, wanted []Module) (*moduleSet, error) {
	if wanted == nil {
		wanted = DefaultModules()
	}
	index, err := kmod.Open(tree)
	if err != nil {
		return nil, err
	}
	set := &moduleSet{}
	need := map[string]bool{}
	for _, m := range wanted {
		switch {
		case index.Path(m.Name) != "":
			order, err := index.Order(m.Name)
			if err != nil {
				return nil, err
			}
			for _, name := range order {
				need[name] = true
			}
		case index.Builtin(m.Name):
			set.report.Builtin = append(set.report.Builtin, kmod.Name(m.Name))
		case m.Essential:
			return nil, fmt.Errorf("essential %w (%s)", &kmod.MissingError{Name: m.Name}, m.Why)
		default:
			set.report.Absent = append(set.report.Absent, kmod.Name(m.Name))
		}
	}
	names := make([]string, 0, len(need))
	for name := range need {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(index.Path(a), index.Path(b)) })

	var dep, aliases bytes.Buffer
	for _, name := range names {
		stored := index.Path(name)
		data, err := readModule(tree, stored)
		if err != nil {
			return nil, fmt.Errorf("read module %s: %w", name, err)
		}
		plain := plainPath(stored)
		set.files = append(set.files, file{plain, 0o644, data})
		set.report.Modules = append(set.report.Modules, plain)

		order, err := index.Order(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&dep, "%s:", plain)
		// Order ends with the module itself; modules.dep has the nearest first.
		for _, d := range slices.Backward(order[:len(order)-1]) {
			fmt.Fprintf(&dep, " %s", plainPath(index.Path(d)))
		}
		dep.WriteByte('\n')
		for _, a := range index.Aliases(name) {
			fmt.Fprintf(&aliases, "alias %s %s\n", a, name)
		}
	}
	builtin, err := fs.ReadFile(tree, "modules.builtin")
	if err != nil {
		return nil, fmt.Errorf("read modules.builtin: %w", err)
	}
	set.files = append(set.files,
		file{"modules.dep", 0o644, dep.Bytes()},
		file{"modules.alias", 0o644, aliases.Bytes()},
		file{"modules.builtin", 0o644, builtin})
	return set, nil
}

// plainPath is the name of a module file once it is decompressed.
func plainPath(name string) string {
	if ext := path.Ext(name); ext != ".ko" {
		return strings.TrimSuffix(name, ext)
	}
	return name
}

// maxModule is far above the largest module there is and keeps a damaged
// compressed file from filling the memory.
const maxModule = 64 << 20

// readModule reads a module file. A tree whose files were decompressed after
// depmod ran still has the old names in modules.dep, so the plain file wins.
func readModule(tree fs.FS, name string) ([]byte, error) {
	if data, err := fs.ReadFile(tree, plainPath(name)); err == nil {
		return data, nil
	}
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader
	switch ext := path.Ext(name); ext {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err == nil {
			defer z.Close()
			r = z
		}
	case ".gz":
		r, err = gzip.NewReader(f)
	default:
		err = fmt.Errorf("compression %q is not known", ext)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxModule)
	}
	return data, nil
}
