package imagespec

import (
	"regexp"
	"slices"
	"strings"
)

// RemovedFile is the file of a container that lists what comes from the host: absolute
// paths, sorted, one a line.
const RemovedFile = "/removed"

// OwnLabel begins the names of labels that the build sets itself.
const OwnLabel = "eos."

var (
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	labelName = regexp.MustCompile(`^[a-z0-9]+([._/-][a-z0-9]+)*$`)
	runAs     = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}))?$`)
)

// checkApp checks the keys that only container descriptions have.
func (d *decoder) checkApp(s *ContainerSpec) {
	if d.set("base") && !descriptionFile(s.Base) {
		d.match("base", s.Base, imageName, "want the name of a description in this folder, as basesystem, or the path of one")
	} else if d.set("base") {
		d.checkDescription("base", s.Base)
	}
	for i, p := range s.Host {
		if what, fix := badPath(p, true); what != "" {
			d.bad(elem("host", i), fix, "%q %s", p, what)
		} else if strings.Trim(p, "/*") == "" {
			d.bad(elem("host", i), "", "%q would leave nothing in the container", p)
		}
	}
	d.unique("host", s.Host)
	d.checkPairs("env", s.Env, envName, "want NAME=VALUE, as LANG=C.UTF-8")
	d.checkPairs("labels", s.Labels, labelName, "want KEY=VALUE with a key in lower case, as org.opencontainers.image.title=Lynx")
	for i, label := range s.Labels {
		if strings.HasPrefix(label, OwnLabel) {
			d.bad(elem("labels", i), "", "labels that begin with %s are set by the build", OwnLabel)
		}
	}
	for _, list := range []struct {
		key   string
		words []string
	}{{"entrypoint", s.Entrypoint}, {"cmd", s.Cmd}} {
		for i, word := range list.words {
			if strings.Contains(word, "\x00") || i == 0 && word == "" {
				d.bad(elem(list.key, i), "", "%q is not a word of a command", word)
			}
		}
	}
	if d.set("user") {
		d.match("user", s.User, runAs, "want USER or USER:GROUP, names or numbers")
	}
	if d.set("workdir") && s.Workdir != "/" {
		if what, fix := badPath(s.Workdir, false); what != "" {
			d.bad("workdir", fix, "%q %s", s.Workdir, what)
		}
	}
}

// checkPairs checks a list of NAME=VALUE.
func (d *decoder) checkPairs(key string, list []string, name *regexp.Regexp, fix string) {
	var names []string
	for i, pair := range list {
		n, _, found := strings.Cut(pair, "=")
		if !found || !name.MatchString(n) || strings.Contains(pair, "\x00") {
			d.bad(elem(key, i), fix, "%q does not fit", pair)
		} else if slices.Contains(names, n) {
			d.bad(elem(key, i), "", "%s is given twice", n)
		}
		names = append(names, n)
	}
}

// loadBase reads the description of the base, and takes from it where packages come from.
func (d *decoder) loadBase(s *ContainerSpec) {
	data, err := readDescription(s.BasePath())
	if err != nil {
		d.problem(d.line("base"), "base", "it is relative to the folder of this description", "%v", err)
		return
	}
	base, inner, err := parseContainer(s.BasePath(), data)
	if err != nil {
		d.problems = append(d.problems, Problems(err)...)
		return
	}
	inner.loadSources(base.Files)
	d.problems = append(d.problems, inner.problems...)
	if base.Base != "" {
		d.problem(d.line("base"), "base", "deltas stand on whole containers", "%s is a delta itself", s.Base)
	}
	if !d.set("debian.suite") {
		s.Debian.Suite = base.Debian.Suite
	}
	if !d.set("debian.mirror") {
		s.Debian.Mirror = base.Debian.Mirror
	}
	if !d.set("arch") {
		s.Arch = base.Arch
	}
	if s.Debian.Suite != base.Debian.Suite {
		d.problem(d.line("debian.suite"), "debian.suite", "leave it out to take that of the base", "is %s, %s is of %s", s.Debian.Suite, s.Base, base.Debian.Suite)
	}
	if s.Arch != base.Arch {
		d.problem(d.line("arch"), "arch", "leave it out to take that of the base", "is %s, %s is for %s", s.Arch, s.Base, base.Arch)
	}
	s.BaseSpec = base
}
