package flake

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is a file of a registration.
type File struct {
	Path string
	Text []byte
}

// Parse reads the registration of name from its files, in their order.
func Parse(name string, files []File) (*Registration, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	all, err := parseFiles(name, files)
	if err != nil {
		return nil, err
	}
	d := &decoder{}
	r := d.registration(all)
	r.Name = name
	return r, d.err
}

// parseFiles reads the files of a registration and merges them.
func parseFiles(name string, files []File) (*value, error) {
	all := &value{file: name + ".yaml", line: 1}
	if len(files) > 0 {
		all.file = files[0].Path
	}
	for _, f := range files {
		v, err := parseFile(f.Path, f.Text)
		if err != nil {
			return nil, err
		}
		all = merge(all, v)
	}
	return all, nil
}

// Marshal returns the registration as the text of one file.
func Marshal(r *Registration) ([]byte, error) {
	text, err := yaml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("write registration of %s: %w", r.Name, err)
	}
	return text, nil
}

// decoder keeps the first error.
type decoder struct{ err error }

func (d *decoder) fail(v *value, format string, a ...any) {
	if d.err == nil {
		d.err = v.errorf(format, a...)
	}
}

func (d *decoder) registration(v *value) *Registration {
	r := &Registration{}
	// Each file may have the other engine's key.
	if !d.mapping(v, "", "include", "container", "vm") {
		return r
	}
	if in := v.fields["include"]; in != nil && d.mapping(in, "include", "tar", "path") {
		r.Include.Tar = d.list(in, "include", "tar")
		r.Include.Path = d.list(in, "include", "path")
	}
	c := v.fields["container"]
	if c == nil || c.kind == null {
		if vm := v.fields["vm"]; vm != nil && vm.kind != null {
			d.fail(vm, "vm: flakes that are virtual machines are not supported yet")
		} else {
			d.fail(v, "container: is missing")
		}
		return r
	}
	if !d.mapping(c, "container", "name", "target_app_path", "host_app_path", "base_container", "check_host_dependencies", "layers", "runtime") {
		return r
	}
	r.Container = Container{
		Name: d.text(c, "container", "name", true), Target: d.text(c, "container", "target_app_path", false),
		Host: d.text(c, "container", "host_app_path", true), Base: d.text(c, "container", "base_container", false),
		CheckHost: d.bool(c, "container", "check_host_dependencies"), Layers: d.list(c, "container", "layers"),
	}
	if strings.HasPrefix(r.Container.Name, "-") {
		d.fail(c.fields["name"], "container.name: %q is not the name of an image", r.Container.Name)
	}
	if run := c.fields["runtime"]; run != nil && run.kind != null && d.mapping(run, "container.runtime", "runas", "resume", "attach", "podman") {
		r.Container.Runtime = Runtime{
			RunAs: d.text(run, "container.runtime", "runas", true), Resume: d.bool(run, "container.runtime", "resume"),
			Attach: d.bool(run, "container.runtime", "attach"), Podman: d.list(run, "container.runtime", "podman"),
		}
	}
	return r
}

// mapping tells whether v is one; what is in it has to be known.
func (d *decoder) mapping(v *value, key string, known ...string) bool {
	if v.kind == null {
		return key == "" // a file without anything lacks what it needs, which is said
	}
	if v.kind != mapping {
		d.fail(v, "%swant keys and values", prefix(key))
		return false
	}
	for _, k := range v.keys {
		if !slices.Contains(known, k) {
			d.fail(v.fields[k], "%s: unknown key; known here: %s", join(key, k), strings.Join(known, ", "))
		}
	}
	return true
}

func (d *decoder) text(v *value, key, name string, must bool) string {
	f := v.fields[name]
	switch {
	case f == nil || f.kind == null || f.kind == scalar && f.text == "":
		if must {
			d.fail(v, "%s: is missing or empty", join(key, name))
		}
		return ""
	case f.kind != scalar || f.tag != "!!str":
		d.fail(f, "%s: want a text, in quotes if it looks like something else", join(key, name))
		return ""
	case strings.ContainsRune(f.text, 0):
		d.fail(f, "%s: has a zero byte in it", join(key, name))
		return ""
	}
	return f.text
}

func (d *decoder) bool(v *value, key, name string) bool {
	f := v.fields[name]
	if f == nil || f.kind == null {
		return false
	}
	if f.kind != scalar || f.tag != "!!bool" {
		d.fail(f, "%s: want true or false", join(key, name))
	}
	return strings.EqualFold(f.text, "true")
}

func (d *decoder) list(v *value, key, name string) []string {
	f := v.fields[name]
	if f == nil || f.kind == null {
		return nil
	}
	if f.kind != list {
		d.fail(f, "%s: want a list", join(key, name))
		return nil
	}
	var out []string
	for _, e := range f.list {
		if e.kind != scalar || strings.ContainsRune(e.text, 0) {
			d.fail(e, "%s: want words", join(key, name))
			return nil
		}
		out = append(out, e.text)
	}
	return out
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func prefix(key string) string {
	if key == "" {
		return ""
	}
	return key + ": "
}
