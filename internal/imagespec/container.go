package imagespec

import (
	"fmt"
	"path"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/OSInside/eos/internal/imagename"
)

// podman is the package whose store containers are for.
const podman = "podman"

// Container is a container image that is in the slot, in a read-only store of podman's.
// It comes from one of Archive, Folder, Image and Build.
type Container struct {
	Name    string   `yaml:"name"`    // on the device; basesystem is localhost/basesystem:latest
	Aliases []string `yaml:"aliases"` // more names
	Archive string   `yaml:"archive"` // of the OCI or of docker, below the folder of the description
	Folder  string   `yaml:"folder"`  // OCI layout, likewise
	Image   string   `yaml:"image"`   // in a registry: REGISTRY/NAME@sha256:...
	Build   string   `yaml:"build"`   // container description, below the folder of the description

	Sum  string         `yaml:"-"`                   // of what the image is made from, set by Load
	Spec *ContainerSpec `yaml:"-" json:",omitempty"` // of Build, set by Load
}

// ContainerPath returns where the archive, folder or description of c is.
func (s *Spec) ContainerPath(c Container) string {
	return beside(s.File, c.Archive+c.Folder+c.Build)
}

// checkContainers checks where container images come from.
func (d *decoder) checkContainers(s *Spec) {
	if len(s.Containers) > 0 && !slices.Contains(s.Packages, podman) {
		d.bad("containers", "add podman to packages, or write containers: [] where there is no podman",
			"are for podman, which is not in packages")
	}
	var names []string
	for i, c := range s.Containers {
		key := elem("containers", i)
		if !d.set(key + ".name") {
			d.bad(key+".name", "want the name on the device, as basesystem", "is missing")
		} else {
			names = append(names, d.containerName(key+".name", c.Name))
		}
		for j, alias := range c.Aliases {
			names = append(names, d.containerName(elem(key+".aliases", j), alias))
		}
		given := 0
		for _, kind := range []string{"archive", "folder", "image", "build"} {
			if d.set(key + "." + kind) {
				given++
			}
		}
		if given != 1 {
			d.bad(key, "a container image is in an archive or folder, in a registry under image, or made by build", "has %d of archive, folder, image and build, want one", given)
		}
		for _, f := range []struct{ key, value, what string }{
			{key + ".archive", c.Archive, "file"}, {key + ".folder", c.Folder, "folder"}, {key + ".build", c.Build, "file"},
		} {
			if d.set(f.key) {
				d.checkBelow(f.key, f.value, f.what)
			}
		}
		if d.set(key + ".image") {
			if _, err := imagename.Pinned(c.Image); err != nil {
				d.bad(key+".image", "with a digest, the same description gives the same image: skopeo inspect shows it", "%v", err)
			}
		}
	}
	for i, name := range names {
		if name != "" && slices.Index(names, name) < i {
			d.bad("containers", "", "%q is the name of two container images", name)
		}
	}
}

// containerName returns a full name, empty if it is none.
func (d *decoder) containerName(key, name string) string {
	full, err := imagename.Local(name)
	if err != nil {
		d.bad(key, "", "%v", err)
	}
	return full
}

// loadContainers reads the container descriptions of s, and the sums of what else its
// containers come from.
func (d *decoder) loadContainers(s *Spec) {
	for i := range s.Containers {
		c := &s.Containers[i]
		key := elem("containers", i)
		var err error
		switch file := s.ContainerPath(*c); {
		case c.Image != "":
			continue // has its digest
		case c.Archive != "":
			key += ".archive"
			c.Sum, err = hashFile(file)
		case c.Folder != "":
			key += ".folder"
			// The index has the sums of all else.
			c.Sum, err = hashFile(path.Join(file, "index.json"))
		default:
			key += ".build"
			c.Spec, err = LoadContainer(file)
		}
		if problems := Problems(err); len(problems) > 0 {
			d.problems = append(d.problems, problems...)
		} else if err != nil {
			d.problem(d.line(key), key, "it is relative to the folder of the image description", "%v", err)
		}
		if c.Spec != nil && c.Spec.Arch != s.Arch {
			d.problem(d.line(key), key, "", "the container is for %s, the image for %s", c.Spec.Arch, s.Arch)
		}
	}
}

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

// ContainerSpec is a container description: a base for containers, of packages.
type ContainerSpec struct {
	File string `yaml:"-" json:"-"` // as given to LoadContainer

	Kind     string   `yaml:"kind"`
	Name     string   `yaml:"name"` // first part of file names, and of the image in the archive
	Arch     string   `yaml:"arch"`
	Debian   Debian   `yaml:"debian"`
	Packages []string `yaml:"packages"`
	Remove   Remove   `yaml:"remove"`
	Files    []File   `yaml:"files"`
}

// SourcePath returns where the content of f comes from.
func (s *ContainerSpec) SourcePath(f File) string { return beside(s.File, f.Source) }

// LoadContainer reads the container description in file, and the sums of the source files
// that it names.
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
