package imagespec

import (
	"path"
	"slices"
	"strings"
)

// Match reports whether the path name matches pattern. Both are absolute. In a pattern, *
// and ? stand for any characters and any one character but '/', and the element ** for any
// number of path elements, at the end for at least one: /usr/share/doc/** is all below
// /usr/share/doc, but not the folder itself.
func Match(pattern, name string) bool {
	return matchElems(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchElems(pattern, name []string) bool {
	for i, p := range pattern {
		if p == "**" {
			rest := pattern[i+1:]
			if len(rest) == 0 {
				return len(name) > i
			}
			for skip := i; skip < len(name); skip++ {
				if matchElems(rest, name[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(name) {
			return false
		}
		if ok, err := path.Match(p, name[i]); err != nil || !ok {
			return false
		}
	}
	return len(name) == len(pattern)
}

// A place is one that files: must not write to, and why.
type place struct{ dir, why string }

// mounted are such places in images and in containers.
var mounted = []place{
	{"/dev", "is mounted over when the system runs"},
	{"/proc", "is mounted over when the system runs"},
	{"/run", "is mounted over when the system runs"},
	{"/sys", "is mounted over when the system runs"},
	{"/tmp", "is mounted over when the system runs"},
}

// listed are such places in containers.
var listed = []place{{RemovedFile, "is made from host:"}}

// generated are such places in images.
var generated = []place{
	{"/etc/os-update.yml", "is made from update: and server:"},
	{"/etc/os-update-daemon.conf", "is made from server:"},
	{"/usr/share/eos/keys", "is made from keys:"},
	{"/usr/share/eos/root.json", "is made from the keys directory"},
	{"/usr/share/eos/registry.json", "is made from registry"},
	{"/usr/lib/eos/uki.efi", "is made by the build"},
	{"/usr/lib/eos/firmware", "is made by the build"},
	{"/usr/lib/eos/containers", "is made from containers:"},
}

func (d *decoder) checkFiles(s *Spec) {
	var paths []string
	for i, f := range s.Files {
		key := elem("files", i)
		paths = append(paths, f.Path)
		d.checkPlace(key+".path", f.Path)
		given := 0
		for _, kind := range []string{"content", "source", "link"} {
			if d.set(key + "." + kind) {
				given++
			}
		}
		if given != 1 {
			d.bad(key, "a file has its text in content, or is a copy of source, or is a symbolic link", "has %d of content, source and link, want one", given)
		}
		if len(f.Content) > maxText {
			d.bad(key+".content", "keep it in a file beside the description and name it in source", "is longer than %d bytes", maxText)
		}
		if d.set(key + ".source") {
			d.checkSource(key+".source", f.Source)
		}
		if d.set(key + ".link") {
			if f.Link == "" || strings.ContainsAny(f.Link, "\x00\n\r") {
				d.bad(key+".link", "", "%q is not the target of a link", f.Link)
			}
			if d.set(key + ".mode") {
				d.bad(key+".mode", "", "a symbolic link has no mode")
			}
		}
		d.match(key+".owner", f.Owner, userName, "want the name of a user in the image")
		d.match(key+".group", f.Group, userName, "want the name of a group in the image")
	}
	d.unique("files", paths)
}

// checkPlace reports a path that a file cannot be written to.
func (d *decoder) checkPlace(key, name string) {
	if !d.set(key) {
		d.bad(key, "", "is missing")
		return
	}
	if what, fix := badPath(name, false); what != "" {
		d.bad(key, fix, "%q %s", name, what)
		return
	}
	places := slices.Concat(mounted, generated)
	if d.container {
		places = slices.Concat(mounted, listed)
	}
	for _, g := range places {
		if name == g.dir || strings.HasPrefix(name, g.dir+"/") {
			d.bad(key, "", "%q: %s %s", name, g.dir, g.why)
		}
	}
}

func (d *decoder) checkSource(key, name string) {
	d.checkBelow(key, name, "file")
}

// checkBelow reports what is no path of a file or folder below that of the description.
func (d *decoder) checkBelow(key, name, what string) {
	if name == "" || strings.HasPrefix(name, "/") || strings.Contains(name, "\x00") ||
		slices.Contains(strings.Split(name, "/"), "..") || path.Clean(name) == "." {
		d.bad(key, "want a path relative to the folder of the image description, without ..", "%q is not a %s below this folder", name, what)
	}
}

// checkDescription reports what cannot be the path of another description. It may lead out
// of this folder: that one keeps to its own.
func (d *decoder) checkDescription(key, name string) {
	if name == "" || strings.HasPrefix(name, "/") || strings.Contains(name, "\x00") || path.Clean(name) == "." {
		d.bad(key, "want a path relative to the folder of this description, as ../apps/basesystem.yaml", "%q is not the file of a description", name)
	}
}

// descriptionFile reports whether name is a path, and not the name of a container.
func descriptionFile(name string) bool {
	return strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// badPath says what is wrong with an absolute path, or pattern, in the image.
func badPath(name string, pattern bool) (what, fix string) {
	switch {
	case name == "":
		return "is empty", ""
	case !strings.HasPrefix(name, "/"):
		return "is not absolute", "begin it with /"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return "has a control character or bad UTF-8 in it", ""
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "has .. in it", "write the path out"
	case name == "/":
		return "is the root of the image", ""
	case path.Clean(name) != name:
		return "is not in its shortest form", "write it as " + path.Clean(name)
	}
	if !pattern {
		return "", ""
	}
	for _, e := range strings.Split(name, "/") {
		if _, err := path.Match(e, ""); err != nil {
			return "is not a pattern: " + err.Error(), "put a backslash before [ or \\"
		}
		if strings.Contains(e, "**") && e != "**" {
			return "has ** that is not a path element of its own", "write /** or *"
		}
	}
	return "", ""
}
