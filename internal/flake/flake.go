// Package flake is about registered applications: commands on the host that are really a
// container. It reads registrations and decides how podman is called; it starts nothing.
//
// [Find] reads the registration of a name, [ParseCall] what the command line says, and
// [Argv] turns both into podman's arguments; [List] reads all registrations. All but Find
// and List are functions of their arguments. Package registration, below, writes.
//
// A registration is NAME.yaml with the files of NAME.d beside it, merged in the order of
// their names: mappings key by key, to any depth; single values and lists replace what was
// there; an empty value changes nothing. Files are read strictly: an unknown key, a key given
// twice, a wrong type is an error with file and line. Aliases, tags and several documents in
// a file are not supported.
//
// Registrations are looked for in /usr/share/flakes, which lies in the registry, then in
// /usr/lib/eos/flakes, which is part of the image ([Registration.Shipped]). The container of
// one of the latter is in the image too, so it also starts when there is no registry.
//
// Not supported yet, and refused: flakes that stay (resume, attach), that are put together
// (base_container, layers, check_host_dependencies, include), and those of users.
package flake

import (
	"errors"
	"fmt"
	"strings"
)

// Places of a system. A shipped flake has its state, if any, in a folder of its name below
// [StateDir].
const (
	Dir        = "/usr/share/flakes"
	ShippedDir = "/usr/lib/eos/flakes"
	StateDir   = "/var/lib/eos"
	// ImageStore is podman's read-only store in the image.
	ImageStore = "/usr/lib/eos/containers"
)

// Registration is how an application is started.
type Registration struct {
	Include   Include   `yaml:"include"`
	Container Container `yaml:"container"`

	Name    string `yaml:"-"` // of the command
	Shipped bool   `yaml:"-"` // it is part of the image, and so is its container
}

// Include is what of the host goes into the container.
type Include struct {
	Tar  []string `yaml:"tar"`
	Path []string `yaml:"path"`
}

// Container is the container behind the command.
type Container struct {
	Name      string   `yaml:"name"`                      // of its image
	Target    string   `yaml:"target_app_path,omitempty"` // program in it; /: what the image says; empty: the command's name
	Host      string   `yaml:"host_app_path"`             // the command on the host
	Base      string   `yaml:"base_container,omitempty"`
	CheckHost bool     `yaml:"check_host_dependencies"`
	Layers    []string `yaml:"layers,omitempty"`
	Runtime   Runtime  `yaml:"runtime"`
}

// Runtime is how podman is called.
type Runtime struct {
	RunAs  string   `yaml:"runas"` // root, or whoever calls
	Resume bool     `yaml:"resume"`
	Attach bool     `yaml:"attach"`
	Podman []string `yaml:"podman"` // its options; each is a word, or two with a blank between
}

// Root tells whether podman is root's.
func (r *Registration) Root() bool { return r.Container.Runtime.RunAs == "root" }

// ErrName says that a name cannot be that of a flake.
var ErrName = errors.New("it is not the name of a flake")

// ValidName tells whether a flake can have this name: it is that of its files.
func ValidName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00\n") && len(name) <= 200
}

// checkName keeps names out that would be other files.
func checkName(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("find flake %q: %w", name, ErrName)
	}
	return nil
}

// Supported says whether this flake can be started yet.
func (r *Registration) Supported() error {
	c := r.Container
	for _, f := range []struct {
		used bool
		key  string
	}{
		{c.Runtime.Resume, "container.runtime.resume"},
		{c.Runtime.Attach, "container.runtime.attach"},
		{c.Base != "", "container.base_container"},
		{len(c.Layers) > 0, "container.layers"},
		{c.CheckHost, "container.check_host_dependencies"},
		{len(r.Include.Tar) > 0, "include.tar"},
		{len(r.Include.Path) > 0, "include.path"},
	} {
		if f.used {
			return fmt.Errorf("start flake %s: %s is not supported yet", r.Name, f.key)
		}
	}
	return nil
}
