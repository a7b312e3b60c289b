package imagespec

import (
	"path"
	"slices"

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
	Build   string   `yaml:"build"`   // container description, relative to the folder of the description

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
			{key + ".archive", c.Archive, "file"}, {key + ".folder", c.Folder, "folder"},
		} {
			if d.set(f.key) {
				d.checkBelow(f.key, f.value, f.what)
			}
		}
		if d.set(key + ".build") {
			d.checkDescription(key+".build", c.Build)
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
