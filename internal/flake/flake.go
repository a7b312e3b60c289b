// Package flake is about registered applications: commands on the host that are really a
// container. It reads registrations and decides how podman is called; it starts nothing.
//
// [Find] reads the registration of a name, [ParseCall] what the command line says, and
// [Decide] turns both into podman's arguments; [List] reads all registrations. All but Find
// and List are functions of their arguments. Of the packages below, registration writes
// registrations, unit makes services of them, assemble puts containers together, and launch starts them.
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

// maxName bounds the name of a flake, in bytes: with that of an instance it has to be one of a file.
const maxName = 180

// ValidName tells whether a flake can have this name: it is that of its files.
func ValidName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00\n") && len(name) <= maxName
}

// checkName keeps names out that would be other files.
func checkName(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("find flake %q: %w", name, ErrName)
	}
	return nil
}

// Mode is how long the container of a flake stays.
type Mode int

// Modes of a flake.
const (
	Plain  Mode = iota // it goes with the application
	Resume             // it stays, and each call starts the application in it
	Attach             // it stays with the application, which further calls attach to
)

// Mode returns that of the flake.
func (r *Registration) Mode() Mode {
	switch {
	case r.Container.Runtime.Resume:
		return Resume
	case r.Container.Runtime.Attach:
		return Attach
	}
	return Plain
}

// Assembled tells whether the container is put together from more than its image.
func (r *Registration) Assembled() bool {
	c := r.Container
	return c.Base != "" || c.CheckHost || len(r.Include.Tar) > 0 || len(r.Include.Path) > 0
}

// check says what keys, each of which is right, do not go together.
func (r *Registration) check(o *Options) error {
	var why string
	switch c := r.Container; {
	case c.Runtime.Resume && c.Runtime.Attach:
		why = "resume and attach exclude each other"
	case c.Runtime.Resume && c.Target == "/":
		why = "resume needs target_app_path: what the image starts by itself is not started again"
	case len(c.Layers) > 0 && c.Base == "":
		why = "layers need a base_container"
	case r.Mode() != Plain && o.Has("--detach", "-d"):
		why = "a container that stays is not detached from"
	default:
		return nil
	}
	return fmt.Errorf("start flake %s: container: %s", r.Name, why)
}
