// Package kmod finds and loads kernel modules from the text files that depmod
// writes beside them: modules.dep, modules.alias and modules.builtin.
//
// Most callers need two things: [Open] (or [Parse]) to get an [Index], which
// answers what must be loaded for a module name or a device's modalias, and
// [Loader], which loads it.
//
// Not supported, on purpose: soft and weak dependencies, install commands,
// blacklists, the binary indexes and unloading. A module file must be
// uncompressed to be loaded; [Index] itself also reads trees of compressed ones.
//
// An Index never changes after Parse and may be shared. A Loader may not be
// used by two goroutines at once.
package kmod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Index says which module files exist, what they depend on and which devices
// they drive.
type Index struct {
	modules map[string]module // by canonical name
	builtin map[string]bool
	aliases []alias
}

type module struct {
	path string
	deps []string // canonical names, in the order of modules.dep
}

type alias struct {
	pattern, name string
	match         string // pattern without slashes
	prefix        string // of match, up to the first wildcard
}

// MissingError is returned for a module that is neither a file of the tree nor
// built into the kernel.
type MissingError struct{ Name string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("module %s: neither a module file nor built into the kernel", e.Name)
}

// Name returns the canonical name of a module: of a file name without folder
// and extensions, and with underscores, since the kernel takes "-" and "_" for the
// same.
func Name(file string) string {
	base := path.Base(file)
	for _, ext := range Compressions {
		if b, ok := strings.CutSuffix(base, ".ko"+ext); ok {
			base = b
			break
		}
	}
	return strings.ReplaceAll(base, "-", "_")
}

// Compressions are the endings that can follow ".ko" in a module's file name, plain first.
var Compressions = []string{"", ".xz", ".zst", ".gz"}

// Open reads the index files of a module tree (/usr/lib/modules/VERSION).
// modules.dep must exist; a tree without modules.alias or modules.builtin drives
// no device by alias and has nothing built in.
func Open(tree fs.FS) (*Index, error) {
	dep, err := fs.ReadFile(tree, "modules.dep")
	if err != nil {
		return nil, fmt.Errorf("read modules.dep: %w", err)
	}
	optional := func(name string) ([]byte, error) {
		b, err := fs.ReadFile(tree, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return b, nil
	}
	aliases, err := optional("modules.alias")
	if err != nil {
		return nil, err
	}
	builtin, err := optional("modules.builtin")
	if err != nil {
		return nil, err
	}
	return Parse(dep, aliases, builtin)
}

// Parse makes an index from the contents of modules.dep, modules.alias and
// modules.builtin.
func Parse(dep, aliases, builtin []byte) (*Index, error) {
	x := &Index{modules: map[string]module{}, builtin: map[string]bool{}}
	err := lines("modules.dep", dep, func(line string) error {
		file, rest, ok := strings.Cut(line, ":")
		file = strings.TrimSpace(file)
		if !ok || file == "" {
			return fmt.Errorf("want FILE: [FILE...], got %q", line)
		}
		m := module{path: file}
		for _, d := range strings.Fields(rest) {
			m.deps = append(m.deps, Name(d))
		}
		if old, dup := x.modules[Name(file)]; dup && old.path != file {
			return fmt.Errorf("module %s is both %s and %s", Name(file), old.path, file)
		}
		x.modules[Name(file)] = m
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = lines("modules.builtin", builtin, func(line string) error {
		x.builtin[Name(line)] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = lines("modules.alias", aliases, func(line string) error {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			return fmt.Errorf("want alias PATTERN MODULE, got %q", line)
		}
		if _, err := path.Match(noSlash(f[1]), ""); err != nil {
			return fmt.Errorf("pattern %q: %w", f[1], err)
		}
		a := alias{pattern: f[1], name: Name(f[2]), match: noSlash(f[1])}
		a.prefix = a.match
		if i := strings.IndexAny(a.match, `*?[\`); i >= 0 {
			a.prefix = a.match[:i]
		}
		x.aliases = append(x.aliases, a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// lines calls do for each line that is neither empty nor a comment.
func lines(name string, data []byte, do func(string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(data))
	// The dependencies of one module are one line; the scanner's own limit of
	// 64 KiB could be met by a large driver.
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Builtin reports whether the kernel itself contains the module.
func (x *Index) Builtin(name string) bool { return x.builtin[Name(name)] }

// Has reports whether the module is available, as a file or built in.
func (x *Index) Has(name string) bool {
	_, ok := x.modules[Name(name)]
	return ok || x.Builtin(name)
}

// Path returns the module's file, relative to the tree, or "" if it has none.
func (x *Index) Path(name string) string { return x.modules[Name(name)].path }

// Order returns the canonical names of all modules that have to be loaded for name, in
// loading order, name itself last. What is built in is left out, so the list of a
// built-in module is empty. A module that is not there, also as a dependency, is a
// *[MissingError]; a dependency circle is an error that spells it out.
func (x *Index) Order(name string) ([]string, error) {
	var (
		order []string
		done  = map[string]bool{}
		chain []string
		visit func(name string) error
	)
	visit = func(name string) error {
		if done[name] {
			return nil
		}
		if i := slices.Index(chain, name); i >= 0 {
			return fmt.Errorf("module %s: dependency circle %s", name, strings.Join(append(chain[i:], name), " -> "))
		}
		m, ok := x.modules[name]
		if !ok {
			if x.builtin[name] {
				return nil
			}
			if len(chain) > 0 {
				return fmt.Errorf("module %s: dependency: %w", chain[0], &MissingError{name})
			}
			return &MissingError{name}
		}
		chain = append(chain, name)
		// modules.dep lists everything a module needs, nearest first, so the
		// load order is the reverse.
		for _, d := range slices.Backward(m.deps) {
			if err := visit(d); err != nil {
				return err
			}
		}
		chain = chain[:len(chain)-1]
		done[name] = true
		order = append(order, name)
		return nil
	}
	if err := visit(Name(name)); err != nil {
		return nil, err
	}
	return order, nil
}

// Match returns the modules that drive a device with this modalias, in the
// order of modules.alias, each once.
func (x *Index) Match(modalias string) []string {
	var names []string
	modalias = noSlash(modalias)
	for _, a := range x.aliases {
		// Nearly all patterns end here, which is worth it on a slow machine.
		if !strings.HasPrefix(modalias, a.prefix) {
			continue
		}
		if ok, err := path.Match(a.match, modalias); err == nil && ok && !slices.Contains(names, a.name) {
			names = append(names, a.name)
		}
	}
	return names
}

// Aliases returns the patterns of one module, in the order of modules.alias.
func (x *Index) Aliases(name string) []string {
	var patterns []string
	for _, a := range x.aliases {
		if a.name == Name(name) {
			patterns = append(patterns, a.pattern)
		}
	}
	return patterns
}

// noSlash takes the slash's special meaning in path.Match away: in a modalias
// it is a letter like any other.
func noSlash(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
