package imagestore

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// FuzzEntries adds any files to a layer, written as lines of TYPE NAME>LINK: sums in an
// archive would keep a fuzzer from getting this far. What is accepted is a whole tree: each
// file is in a folder, no path leads out, hard links lead to files.
func FuzzEntries(f *testing.F) {
	f.Add("5 ./\n0 ./a\n1 b>a")
	f.Add("0 a/.wh.b\n0 a/b/c\n0 a/.wh..wh..opq\n0 .wh.a\n5 a/")
	f.Add("2 a>/x\n3 n\n1 m>a\n0 " + strings.Repeat("l/", 80))
	f.Add("0 ../a\n0 /a\n1 a>../../b\n0 .wh...\n6 p")
	f.Fuzz(func(t *testing.T, text string) {
		all := entries{}
		for line := range strings.SplitSeq(text, "\n") {
			if line == "" {
				continue
			}
			name, link, _ := strings.Cut(strings.TrimPrefix(line[1:], " "), ">")
			if err := all.add(&tar.Header{Typeflag: line[0], Name: name, Linkname: link}, 0); err != nil {
				return
			}
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			e := all[name]
			if name == "" {
				continue
			}
			if !path.IsAbs("/"+name) || path.Clean(name) != name || strings.HasPrefix(name, "../") || name == ".." || name[0] == '/' {
				t.Errorf("path %q", name)
			}
			if up := all[parent(name)]; parent(name) != "" && (up == nil || up.Type != tar.TypeDir) {
				t.Errorf("%q is in no folder", name)
			}
			if e.Type == tar.TypeLink {
				if to := all[e.Link]; to == nil || to.Type != tar.TypeReg {
					t.Errorf("%q is a link to %q, which is no file", name, e.Link)
				}
			}
			if strings.HasPrefix(path.Base(name), ".wh.") {
				t.Errorf("%q is left", name)
			}
		}
	})
}
