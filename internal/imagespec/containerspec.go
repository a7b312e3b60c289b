package imagespec

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// KindContainer is the value of the key kind that makes a file a container description.
const KindContainer = "container"

// KindOf returns the value of the key kind: empty for an image description.
func KindOf(data []byte) string {
	var doc struct {
		Kind string `yaml:"kind"`
	}
	// What is wrong with the file is for Parse to say.
	_ = yaml.Unmarshal(data, &doc)
	return doc.Kind
}

// ContainerSpec is a container description: a base for containers or an application, of
// packages. With a base it is a delta: only what differs from that of the base is in it.
type ContainerSpec struct {
	File string `yaml:"-" json:"-"` // as given to LoadContainer

	Kind     string   `yaml:"kind"`
	Name     string   `yaml:"name"` // first part of file names, and of the image in the archive
	Arch     string   `yaml:"arch"`
	Debian   Debian   `yaml:"debian"`
	Packages []string `yaml:"packages"`
	Remove   Remove   `yaml:"remove"`
	Files    []File   `yaml:"files"`

	// What follows is left out where it is not given, so that descriptions without keep the
	// digest of the images they are in.
	Base       string   `yaml:"base" json:",omitempty"`       // name of a description beside, or file
	Host       []string `yaml:"host" json:",omitempty"`       // patterns for [Match] of paths that come from the host
	Env        []string `yaml:"env" json:",omitempty"`        // NAME=VALUE
	Entrypoint []string `yaml:"entrypoint" json:",omitempty"` // what is started, before cmd
	Cmd        []string `yaml:"cmd" json:",omitempty"`        // what is started, if nobody says otherwise
	User       string   `yaml:"user" json:",omitempty"`       // USER or USER:GROUP
	Workdir    string   `yaml:"workdir" json:",omitempty"`
	Labels     []string `yaml:"labels" json:",omitempty"` // KEY=VALUE

	BaseSpec *ContainerSpec `yaml:"-" json:",omitempty"` // of Base, set by LoadContainer
}

// BasePath returns where the description of the base is.
func (s *ContainerSpec) BasePath() string {
	name := s.Base
	if !descriptionFile(name) {
		name += ".yaml"
	}
	return beside(s.File, name)
}

// SourcePath returns where the content of f comes from.
func (s *ContainerSpec) SourcePath(f File) string { return beside(s.File, f.Source) }

// LoadContainer reads the container description in file and that of its base, and the sums
// of the source files that they name.
func LoadContainer(file string) (*ContainerSpec, error) {
	data, err := readDescription(file)
	if err != nil {
		return nil, err
	}
	s, d, err := parseContainer(file, data)
	if err != nil {
		return nil, err
	}
	d.loadSources(s.Files)
	if s.Base != "" {
		d.loadBase(s)
	}
	if len(d.problems) > 0 {
		return nil, join(d.problems)
	}
	return s, nil
}

// ParseContainer is [LoadContainer] for a description in memory; file is its name in errors.
// Source files are not read and their sums stay empty.
func ParseContainer(file string, data []byte) (*ContainerSpec, error) {
	s, _, err := parseContainer(file, data)
	return s, err
}

func parseContainer(file string, data []byte) (*ContainerSpec, *decoder, error) {
	root, problem := parseYAML(file, data)
	if problem != nil {
		return nil, nil, problem
	}
	d := &decoder{file: file, lines: map[string]int{}, container: true}
	def := Default()
	s := &ContainerSpec{File: file, Arch: def.Arch, Debian: def.Debian}
	d.value(root, "", reflect.ValueOf(s).Elem(), false)
	delete(d.lines, "")
	dropEmpty(reflect.ValueOf(s).Elem())
	// What both kinds have is completed and checked by the same code.
	both := Spec{Name: s.Name, Arch: s.Arch, Debian: s.Debian, Packages: s.Packages, Remove: s.Remove, Files: s.Files}
	d.complete(&both)
	s.Packages, s.Remove, s.Files = both.Packages, both.Remove, both.Files
	d.decoded = len(d.problems)
	if s.Kind != KindContainer {
		d.problem(d.line("kind"), "kind", "a container description begins with kind: container", "is %q, want %s", s.Kind, KindContainer)
	}
	if !d.set("name") {
		d.problem(1, "name", "add a line name: basesystem", "is missing")
	}
	d.match("name", s.Name, imageName, "want up to 64 lower-case letters, digits, '.' and '-', beginning with a letter or digit")
	if imageName.MatchString(s.Name) {
		d.containerName("name", s.Name) // which is stricter about dots
	}
	d.checkDebian(&both)
	d.checkPackages(&both)
	d.checkFiles(&both)
	d.checkApp(s)
	if len(d.problems) > 0 {
		return nil, nil, join(d.problems)
	}
	return s, d, nil
}

// Supported returns an error if the builder cannot make this container.
func (s *ContainerSpec) Supported() error {
	if s.Arch != "amd64" {
		return fmt.Errorf("%s: containers for %s cannot be built yet, only for amd64", s.File, s.Arch)
	}
	return nil
}
