package imagespec

import (
	"path"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/flake/registration"
	"github.com/OSInside/eos/internal/imagename"
)

// flakePackages are what a command that is a container needs: podman, and what stands before
// the application in its container.
var flakePackages = []string{podman, "tini"}

// commandDirs are where the command of a flake may be: the image has it, and PATH leads there.
var commandDirs = []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}

// Flake is a command of the image that is a container, as `flake-ctl podman register` makes
// them on a device.
type Flake struct {
	App         string   `yaml:"app"`       // path of the command
	Container   string   `yaml:"container"` // all names are of containers of the image
	Base        string   `yaml:"base"`
	Layers      []string `yaml:"layers"`
	Target      string   `yaml:"target"`  // program in the container; empty: the command's name; /: what the container says
	Options     []string `yaml:"options"` // of podman; empty: -ti
	Resume      bool     `yaml:"resume"`
	Attach      bool     `yaml:"attach"`
	CheckHost   bool     `yaml:"check_host_dependencies"`
	IncludeTar  []string `yaml:"include_tar"` // paths on the device
	IncludePath []string `yaml:"include_path"`
	RunAs       string   `yaml:"runas"` // default root; any other word: whoever calls
	Unit        string   `yaml:"unit"`  // name of a service, without .service
	UnitNotify  bool     `yaml:"unit_notify"`
}

// Registration is what is registered of it.
func (f Flake) Registration() registration.Options {
	return registration.Options{
		App: f.App, Image: f.Container, Base: f.Base, Layers: f.Layers, Target: f.Target, Podman: f.Options, Resume: f.Resume, Attach: f.Attach,
		CheckHost: f.CheckHost, Tar: f.IncludeTar, Path: f.IncludePath, RunAs: f.RunAs,
		Unit: strings.TrimSuffix(f.Unit, ".service"), Notify: f.UnitNotify,
	}
}

// checkFlakePackages reports, at key, packages that commands which are containers need.
func (d *decoder) checkFlakePackages(s *Spec, key string) {
	var missing []string
	for _, p := range flakePackages {
		if !slices.Contains(s.Packages, p) {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		d.bad(key, "add them to packages", "needs the packages %s", strings.Join(missing, ", "))
	}
}

// checkFlakes checks that the commands can be made, and that their containers are there.
func (d *decoder) checkFlakes(s *Spec) {
	if len(s.Flakes) == 0 {
		return
	}
	d.checkFlakePackages(s, "flakes")
	known := map[string]bool{}
	for _, c := range s.Containers {
		for _, name := range append([]string{c.Name}, c.Aliases...) {
			if full, err := imagename.Local(name); err == nil {
				known[full] = true
			}
		}
	}
	commands, units := map[string]bool{}, map[string]bool{}
	if s.Fleet.On() {
		commands["fleet"] = true
	}
	for _, u := range s.Units.Add {
		units[u.Name] = true
	}
	for i, f := range s.Flakes {
		key := elem("flakes", i)
		d.checkFlake(key, f, known)
		o := f.Registration()
		if f.App != "" && commands[o.Name()] {
			d.bad(key+".app", "", "%q is the name of two commands", o.Name())
		}
		commands[o.Name()] = true
		if o.Unit != "" && units[o.Unit+".service"] {
			d.bad(key+".unit", "", "%q is the name of two units", o.Unit+".service")
		}
		units[o.Unit+".service"] = true
	}
}

func (d *decoder) checkFlake(key string, f Flake, known map[string]bool) {
	before := len(d.problems)
	switch what, fix := badPath(f.App, false); {
	case f.App == "":
		d.bad(key+".app", "want the path of the command, as /usr/bin/lynx", "is missing")
	case what != "":
		d.bad(key+".app", fix, "%q %s", f.App, what)
	case !slices.Contains(commandDirs, path.Dir(f.App)):
		d.bad(key+".app", "want a file in "+strings.Join(commandDirs, ", "), "%q is no place for a command", f.App)
	}
	named := func(key, name string) {
		if full, err := imagename.Local(name); err != nil {
			d.bad(key, "", "%v", err)
		} else if !known[full] {
			d.bad(key, "add it to containers, or give one of their names", "%q is not a container of the image", name)
		}
	}
	if f.Container == "" {
		d.bad(key+".container", "give the name of one of containers", "is missing")
	} else {
		named(key+".container", f.Container)
	}
	if f.Base != "" {
		named(key+".base", f.Base)
	}
	for i, l := range f.Layers {
		named(elem(key+".layers", i), l)
	}
	for i, o := range f.Options {
		if strings.HasPrefix(o, `\`) {
			d.bad(elem(key+".options", i), "the backslash is for the command line", "%q begins with a backslash", o)
		}
	}
	for _, l := range []struct {
		key   string
		paths []string
	}{{key + ".include_tar", f.IncludeTar}, {key + ".include_path", f.IncludePath}} {
		for i, p := range l.paths {
			if what, fix := badPath(p, false); what != "" {
				d.bad(elem(l.key, i), fix, "%q %s", p, what)
			}
		}
	}
	switch {
	case len(f.Layers) > 0 && f.Base == "":
		d.bad(key+".layers", "", "need a base")
	case f.Resume && f.Attach:
		d.bad(key+".attach", "keep one of the two", "and resume exclude each other")
	case f.Unit != "" && (f.Resume || f.Attach):
		d.bad(key+".unit", "leave resume and attach out", "a container that stays is no service")
	case f.Unit == "" && f.UnitNotify:
		d.bad(key+".unit_notify", "give unit a name", "there is no unit")
	}
	if len(d.problems) > before {
		return
	}
	// What else is wrong is for those who write it to say.
	o := f.Registration()
	if _, err := o.Text(); err != nil {
		d.bad(key, "", "%v", err)
	}
}
