package origin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ConfigFile says what a server keeps copies of.
const ConfigFile = "/etc/os-update.yml"

// A Source is one image and where it comes from.
type Source struct {
	Image string `yaml:"image" json:"image"` // URL of a .raw, .raw.xz or .raw.zst
	Name  string `yaml:"name" json:"name"`   // of the copy, ends in .raw
	// Keyring is a file of OpenPGP public keys. If it is named, only an image with a signature
	// by one of them is taken.
	Keyring string `yaml:"keyring" json:"keyring,omitempty"`
}

// A Config is what a server's configuration says.
type Config struct {
	Update []Source // images to keep copies of
	Mirror string   // URL of a TUF repository to keep a copy of; empty: none
}

// RepositoryName is no name of an image: the timer of the repository has it.
const RepositoryName = "repository.raw"

// Names are those of units too, which cannot have a '+' in them.
var imageName = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_-]*(\.[0-9A-Za-z_-]+)*\.raw$`)

// LoadConfig reads a configuration file.
func LoadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return ParseConfig(path, b)
}

// document is the file. An update server is a device too: what os-update reads in the same file
// may stand there and is not looked at.
type document struct {
	Update []yaml.Node `yaml:"update"`
	Mirror yaml.Node   `yaml:"mirror"`

	Server      yaml.Node `yaml:"server"`
	Name        yaml.Node `yaml:"name"`
	Class       yaml.Node `yaml:"class"`
	Activate    yaml.Node `yaml:"activate"`
	PKey        yaml.Node `yaml:"pkey"`
	CA          yaml.Node `yaml:"ca"`
	Certificate yaml.Node `yaml:"certificate"`
	Key         yaml.Node `yaml:"key"`
	LimitRate   yaml.Node `yaml:"limit_rate"`
	Channel     yaml.Node `yaml:"channel"`
}

// ParseConfig reads the images under `update:` and the repository under `mirror:` strictly: an
// unknown key, a wrong type or a name given twice is an error that names file and line.
func ParseConfig(path string, b []byte) (Config, error) {
	var doc document
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, yamlError(path, err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%s: more than one YAML document", path)
	}
	c := Config{Mirror: doc.Mirror.Value}
	if n := doc.Mirror; !n.IsZero() && (n.Kind != yaml.ScalarNode || !isWebURL(n.Value)) {
		return Config{}, fmt.Errorf("%s:%d: mirror %q: want http://HOST/PATH or https://HOST/PATH", path, n.Line, n.Value)
	}
	seen := map[string]int{}
	for _, n := range doc.Update {
		var s Source
		if err := known(&n); err != nil {
			return Config{}, fmt.Errorf("%s:%w", path, err)
		}
		if err := n.Decode(&s); err != nil {
			return Config{}, yamlError(path, err)
		}
		if err := s.check(); err != nil {
			return Config{}, fmt.Errorf("%s:%d: %w", path, n.Line, err)
		}
		if line, ok := seen[s.Name]; ok {
			return Config{}, fmt.Errorf("%s:%d: name %s is taken in line %d", path, n.Line, s.Name, line)
		}
		seen[s.Name] = n.Line
		c.Update = append(c.Update, s)
	}
	return c, nil
}

// known refuses keys that there are not; yaml.Node does not keep the decoder's strictness.
func known(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%d: want the keys image and name", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch k := n.Content[i]; k.Value {
		case "image", "name", "keyring":
		default:
			return fmt.Errorf("%d: unknown key %q (want image, name, keyring)", k.Line, k.Value)
		}
	}
	return nil
}

func yamlError(path string, err error) error {
	text := err.Error()
	var t *yaml.TypeError
	if errors.As(err, &t) && len(t.Errors) > 0 {
		text = t.Errors[0]
	}
	text = strings.Join(strings.Fields(text), " ") // it quotes what it did not understand, as it stands
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(text, "yaml: "), "line "); ok {
		if line, what, ok := strings.Cut(rest, ": "); ok {
			return fmt.Errorf("%s:%s: %s", path, line, strings.TrimSuffix(what, " in type origin.document"))
		}
	}
	return fmt.Errorf("%s: %s", path, strings.TrimPrefix(text, "yaml: "))
}

func (s Source) check() error {
	switch {
	case s.Image == "":
		return errors.New("image is missing: the URL of a .raw, .raw.xz or .raw.zst")
	case !isWebURL(s.Image):
		return fmt.Errorf("image %q: want http://HOST/PATH or https://HOST/PATH", s.Image)
	case s.Name == "":
		return errors.New("name is missing: that of the copy, as EOS.x86_64.raw")
	case s.Name == RepositoryName:
		return fmt.Errorf("name %q: it is for the repository", s.Name)
	case len(s.Name) > 180 || !imageName.MatchString(s.Name):
		return fmt.Errorf("name %q: want letters, digits, '.', '_' and '-', and .raw at the end", s.Name)
	}
	return nil
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
