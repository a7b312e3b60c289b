package image

import (
	"fmt"
	"path"
	"strings"
)

const (
	unitDir  = "/usr/lib/systemd/system" // units of packages and of EOS
	localDir = "/etc/systemd/system"     // what is enabled and masked
)

// findUnit returns the path of a unit file; for x@y.service that of x@.service.
func (t *tree) findUnit(name string) (string, error) {
	names := []string{name}
	if template, _, ok := splitInstance(name); ok {
		names = append(names, template)
	}
	for _, n := range names {
		for _, dir := range []string{localDir, unitDir} {
			if p := dir + "/" + n; t.get(p) != nil {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("enable unit %s: no package of the image has it", name)
}

// splitInstance splits x@y.service into x@.service and y.
func splitInstance(name string) (template, instance string, ok bool) {
	prefix, rest, found := strings.Cut(name, "@")
	if !found {
		return "", "", false
	}
	ext := path.Ext(rest)
	instance = strings.TrimSuffix(rest, ext)
	return prefix + "@" + ext, instance, instance != ""
}

// install is the [Install] section of a unit.
type install struct {
	wantedBy, requiredBy, upheldBy, alias, also []string
	defaultInstance                             string
}

// parseInstall reads the [Install] section and ignores all else.
func parseInstall(text string) install {
	var in install
	section := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			section = line
			continue
		}
		if section != "[Install]" {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		words := strings.Fields(value)
		switch strings.TrimSpace(name) {
		case "WantedBy":
			in.wantedBy = append(in.wantedBy, words...)
		case "RequiredBy":
			in.requiredBy = append(in.requiredBy, words...)
		case "UpheldBy":
			in.upheldBy = append(in.upheldBy, words...)
		case "Alias":
			in.alias = append(in.alias, words...)
		case "Also":
			in.also = append(in.also, words...)
		case "DefaultInstance":
			in.defaultInstance = strings.TrimSpace(value)
		}
	}
	return in
}

// enable makes the links that systemctl enable would.
func (t *tree) enable(name string) error {
	return t.enableOnce(name, map[string]bool{})
}

func (t *tree) enableOnce(name string, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	p, err := t.findUnit(name)
	if err != nil {
		return err
	}
	if n := t.get(p); n.link == "/dev/null" {
		return fmt.Errorf("enable unit %s: it is masked", name)
	} else if n.link != "" {
		target := n.link
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(p), target)
		}
		return t.enableOnce(path.Base(target), seen)
	}
	text, err := t.read(p)
	if err != nil {
		return err
	}
	in := parseInstall(string(text))
	if strings.HasSuffix(strings.TrimSuffix(name, path.Ext(name)), "@") {
		if in.defaultInstance == "" {
			return fmt.Errorf("enable unit %s: it is a template, name an instance of it", name)
		}
		name = strings.Replace(name, "@", "@"+in.defaultInstance, 1)
	}
	for _, dep := range []struct {
		by     []string
		suffix string
	}{{in.wantedBy, ".wants/"}, {in.requiredBy, ".requires/"}, {in.upheldBy, ".upholds/"}} {
		for _, target := range dep.by {
			t.symlink(localDir+"/"+target+dep.suffix+name, p)
		}
	}
	for _, alias := range in.alias {
		t.symlink(localDir+"/"+alias, p)
	}
	for _, other := range in.also {
		if err := t.enableOnce(other, seen); err != nil {
			return err
		}
	}
	if len(in.wantedBy)+len(in.requiredBy)+len(in.upheldBy)+len(in.alias)+len(in.also) == 0 {
		return fmt.Errorf("enable unit %s: it has no [Install] section, so nothing says what starts it", name)
	}
	return nil
}

// disable takes a unit out of everything that would start it, in the folders
// of packages also: the image is put together once, nothing adds it again.
func (t *tree) disable(name string) {
	for _, dir := range []string{localDir, unitDir} {
		for _, p := range t.below(dir) {
			parent := path.Base(path.Dir(p))
			if path.Base(p) == name && (strings.HasSuffix(parent, ".wants") ||
				strings.HasSuffix(parent, ".requires") || strings.HasSuffix(parent, ".upholds")) {
				t.remove(p)
			}
		}
	}
}

// mask makes a unit impossible to start.
func (t *tree) mask(name string) {
	t.disable(name)
	t.symlink(localDir+"/"+name, "/dev/null")
}
