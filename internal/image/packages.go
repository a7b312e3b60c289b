package image

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/imagespec"
)

const dpkgDir = "/var/lib/dpkg"

// removable are packages that serve to change a root, which nobody can do to
// this one, or to make an initramfs, which is another here. Their files go, if
// they are there. Library packages among what they depend on stay: that other
// programs use them can not be told from here.
var removable = []string{
	"adduser", "apt", "debconf", "debian-archive-keyring", "dpkg", "dracut-install",
	"gpgv", "initramfs-tools", "initramfs-tools-bin", "initramfs-tools-core",
	"klibc-utils", "libapt-pkg7.0", "libdebconfclient0", "libklibc", "linux-base",
	"sqv", "sysv-rc", "sysvinit-utils", "ucf",
}

// removePackages takes out the files of packages. A name without a package is
// an error if it must be there.
func (t *tree) removePackages(names []string, must bool) ([]string, error) {
	lists := map[string][]string{} // package -> its files
	for _, p := range t.below(dpkgDir + "/info") {
		if name, ok := strings.CutSuffix(path.Base(p), ".list"); ok {
			name, _, _ = strings.Cut(name, ":")
			text, err := t.read(p)
			if err != nil {
				return nil, err
			}
			for file := range strings.Lines(string(text)) {
				lists[name] = append(lists[name], t.resolve(strings.TrimRight(file, "\n")))
			}
		}
	}
	var gone []string
	var files []string
	for _, name := range names {
		if lists[name] == nil {
			if must {
				return nil, fmt.Errorf("remove package %s: it is not in the image", name)
			}
			continue
		}
		gone = append(gone, name)
		files = append(files, lists[name]...)
		delete(lists, name)
	}
	kept := map[string]bool{}
	for _, list := range lists {
		for _, p := range list {
			kept[p] = true
		}
	}
	slices.Sort(files)
	slices.Reverse(files) // the content of a folder before the folder
	for _, p := range files {
		n := t.get(p)
		if n == nil || kept[p] || n.typ == tar.TypeDir && len(t.below(p)) > 0 {
			continue
		}
		delete(t.nodes, p)
	}
	return gone, nil
}

// removePaths takes out what patterns of a description match.
func (t *tree) removePaths(patterns []string) {
	for _, p := range t.names() {
		for _, pattern := range patterns {
			if imagespec.Match(pattern, p) {
				t.remove(p)
			}
		}
	}
}

// resolve follows the links at the top of a root that lead below /usr.
func (t *tree) resolve(p string) string {
	p = clean(p)
	top, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if n := t.get(top); n != nil && n.typ == tar.TypeSymlink && rest != "" {
		return clean(n.link + "/" + rest)
	}
	return p
}

// filterStatus returns dpkg's table of packages without those that are gone.
func filterStatus(status string, gone []string) string {
	var out []string
	for _, record := range strings.Split(strings.TrimSpace(status), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(record, "Package: "), "\n")
		if !slices.Contains(gone, strings.TrimSpace(name)) {
			out = append(out, record+"\n")
		}
	}
	return strings.Join(out, "\n")
}
