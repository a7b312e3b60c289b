package flake

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What starts a flake.
const (
	EnginePodman      = "podman"
	EngineFirecracker = "firecracker"
)

// Entry is a flake in the list of all. What of it is not known is empty.
type Entry struct {
	Name    string
	Engine  string
	Image   string   // name of its container or virtual machine
	Parts   []string // other containers that it is put together from
	Target  string   // program in it
	Host    string   // its command
	Config  string   // its first file
	Shipped bool     // it is part of the image
	Err     error    // why its files say nothing
}

// Describe reads the files of a flake of whatever engine as far as a list needs it.
func Describe(name string, files []File) Entry {
	e := Entry{Name: name}
	if e.Err = checkName(name); e.Err != nil {
		return e
	}
	all, err := parseFiles(name, files)
	if err != nil {
		e.Err = err
		return e
	}
	d := &decoder{}
	if vm := all.fields["vm"]; vm != nil && vm.kind == mapping && isNull(all.fields["container"]) {
		d.mapping(vm, "vm", "name", "target_app_path", "host_app_path", "base_vm", "layers", "runtime")
		e.Engine, e.Image = EngineFirecracker, d.text(vm, "vm", "name", true)
		e.Target, e.Host = d.text(vm, "vm", "target_app_path", false), d.text(vm, "vm", "host_app_path", true)
	} else {
		r := d.registration(all)
		e.Engine, e.Image, e.Target, e.Host = EnginePodman, r.Container.Name, r.Container.Target, r.Container.Host
		e.Parts = slices.Clone(r.Container.Layers)
		if r.Container.Base != "" {
			e.Parts = append(e.Parts, r.Container.Base)
		}
	}
	if d.err != nil {
		return Entry{Name: name, Err: d.err}
	}
	return e
}

func isNull(v *value) bool { return v == nil || v.kind == null }

// List reads all registrations, those of dir and those of shipped that dir has none of the
// same name for, in the order of their names. A flake whose files say nothing has its error
// in the list and hides no other; so has a folder that cannot be read, beside the list.
func List(dir, shipped string) ([]Entry, error) {
	var all []Entry
	var problems []error
	for _, from := range []string{dir, shipped} {
		if from == "" {
			continue
		}
		names, err := names(from)
		if err != nil {
			problems = append(problems, fmt.Errorf("list flakes: %w", err))
		}
		for _, name := range names {
			if slices.ContainsFunc(all, func(e Entry) bool { return e.Name == name }) {
				continue
			}
			files, err := ReadFiles(from, name)
			e := Entry{Name: name, Err: err}
			if err == nil {
				e = Describe(name, files)
			}
			e.Config, e.Shipped = filepath.Join(from, name+".yaml"), from == shipped
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(problems...)
}

// names are those of the registrations in a folder.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && name != "" && name[0] != '.' {
			out = append(out, name)
		}
	}
	return out, err
}
