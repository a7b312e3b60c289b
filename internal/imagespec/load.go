package imagespec

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDescription bounds a description; real ones have a few KiB.
const maxDescription = 1 << 20

// Load reads the description in file and applies profile to it ("" is AB). It also reads
// the source files that the description names, to hash them.
func Load(file, profile string) (*Spec, error) {
	data, err := readDescription(file)
	if err != nil {
		return nil, err
	}
	s, d, err := parse(file, data, profile)
	if err != nil {
		return nil, err
	}
	d.loadSources(s.Files)
	d.loadContainers(s)
	d.loadFleet(s)
	if len(d.problems) > 0 {
		return nil, join(d.problems)
	}
	return s, nil
}

// readDescription reads a description of any kind.
func readDescription(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open image description: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDescription+1))
	if err != nil {
		return nil, fmt.Errorf("read image description: %w", err)
	}
	return data, nil
}

// loadSources sets the sums of source files.
func (d *decoder) loadSources(files []File) {
	for i := range files {
		f := &files[i]
		if f.Source == "" {
			continue
		}
		var err error
		if f.Sum, err = hashFile(beside(d.file, f.Source)); err != nil {
			key := fmt.Sprintf("files[%d].source", i)
			d.problem(d.line(key), key, "source is relative to the folder of the image description", "%v", err)
		}
	}
}

// beside returns the path of a file that a description names.
func beside(file, name string) string {
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(name))
}

// Parse is [Load] for a description in memory; file is its name in errors. Source files
// are not read and their sums stay empty.
func Parse(file string, data []byte, profile string) (*Spec, error) {
	s, _, err := parse(file, data, profile)
	return s, err
}

// Profiles returns the names of the profiles a description can be built with, sorted.
func Profiles(data []byte) []string {
	names := []string{ProfileAB, ProfileStatic, ProfileServer}
	var doc struct {
		Profiles map[string]yaml.Node `yaml:"profiles"`
	}
	// What is wrong with the file is for Parse to say.
	_ = yaml.Unmarshal(data, &doc)
	for name := range doc.Profiles {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func parse(file string, data []byte, profile string) (*Spec, *decoder, error) {
	root, problem := parseYAML(file, data)
	if problem != nil {
		return nil, nil, problem
	}
	if profile == "" {
		profile = ProfileAB
	}
	top := &decoder{file: file, lines: map[string]int{}}
	profiles := top.profiles(root)
	if !slices.ContainsFunc(profiles, func(p override) bool { return p.name == profile }) {
		var names []string
		for _, p := range profiles {
			names = append(names, p.name)
		}
		top.problem(top.line("profiles"), "profiles", "there are: "+strings.Join(names, ", "), "no profile %q", profile)
		return nil, nil, join(top.problems)
	}

	var spec *Spec
	var chosen *decoder
	all := top.problems
	// The chosen profile first: its problems are told without naming it.
	slices.SortStableFunc(profiles, func(a, b override) int {
		switch {
		case a.name == profile:
			return -1
		case b.name == profile:
			return 1
		}
		return 0
	})
	seen := map[Problem]bool{}
	for _, p := range profiles {
		s, d := apply(file, root, p)
		if p.name == profile {
			spec, chosen = s, d
		}
		for _, found := range d.problems {
			if seen[*found] {
				continue
			}
			seen[*found] = true
			if p.name != profile {
				found.What += fmt.Sprintf(" (in profile %s)", p.name)
			}
			all = append(all, found)
		}
	}
	if len(all) > 0 {
		return nil, nil, join(all)
	}
	return spec, chosen, nil
}

// override is a profile: what EOS itself sets in it, then what the description says.
type override struct {
	name string
	node *yaml.Node // nil: not described
}

var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

// profiles returns the profiles of the description and those that are always there.
func (d *decoder) profiles(root *yaml.Node) []override {
	all := []override{{name: ProfileAB}, {name: ProfileStatic}, {name: ProfileServer}}
	var node *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "profiles" {
			node = root.Content[i+1]
			break
		}
	}
	if node == nil {
		return all
	}
	d.lines["profiles"] = node.Line
	if !d.plain(node, "profiles") {
		return all
	}
	if node.Kind != yaml.MappingNode {
		d.problem(node.Line, "profiles", "", "is %s, want a mapping of names", kindName(node))
		return all
	}
	for name, value := range d.pairs(node, "profiles") {
		if !profileName.MatchString(name) {
			d.problem(value.Line, "profiles", "", "profile name %q: want letters, digits, '_' and '-'", name)
			continue
		}
		i := slices.IndexFunc(all, func(p override) bool { return p.name == name })
		if i < 0 {
			i = len(all)
			all = append(all, override{name: name})
		}
		all[i].node = value
	}
	return all
}

// apply decodes the description with one profile over it.
func apply(file string, root *yaml.Node, p override) (*Spec, *decoder) {
	d := &decoder{file: file, lines: map[string]int{}}
	s := Default()
	s.File, s.Profile = file, p.name
	base := *root
	base.Content = nil
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "profiles" && !slices.ContainsFunc(base.Content, func(n *yaml.Node) bool { return n.Value == "profiles" }) {
			continue
		}
		base.Content = append(base.Content, root.Content[i], root.Content[i+1])
	}
	v := reflect.ValueOf(&s).Elem()
	d.value(&base, "", v, false)
	if p.name == ProfileStatic {
		s.Disk.Slots = 1
	}
	if p.node != nil {
		d.value(p.node, "", v, true)
	}
	delete(d.lines, "")
	d.complete(&s)
	d.decoded = len(d.problems)
	d.check(&s)
	return &s, d
}

var yamlLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s*)?(?:line (\d+): )?`)

// parseYAML returns the mapping at the top of the one document in data.
func parseYAML(file string, data []byte) (root *yaml.Node, problem error) {
	if len(data) > maxDescription {
		return nil, &Problem{File: file, Line: 1, What: fmt.Sprintf("larger than %d bytes, not an image description", maxDescription)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Problem{File: file, Line: 1, What: "the file is empty"}
		}
		return nil, yamlProblem(file, err)
	}
	root = doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, &Problem{File: file, Line: root.Line, What: fmt.Sprintf("is %s, want a mapping of keys", kindName(root)), Fix: "an image description begins with name: NAME"}
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		return nil, &Problem{File: file, Line: max(more.Line, 1), What: "a second YAML document", Fix: "an image description is one document; remove the '---' line"}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlProblem(file, err)
	}
	return root, nil
}

func yamlProblem(file string, err error) error {
	text := err.Error()
	line := 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			line = n
		}
	}
	return &Problem{File: file, Line: line, What: "not YAML: " + strings.ReplaceAll(text, "\n", " ")}
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() {
		return "", fmt.Errorf("open %s: not a regular file", path)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
