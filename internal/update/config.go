package update

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ConfigFile is where an image keeps its configuration.
const ConfigFile = "/etc/os-update.yml"

// How a written slot is started.
const (
	ActivateKexec  = "kexec"  // jump into it
	ActivateReboot = "reboot" // let the boot loader start it once
)

// Config is the content of /etc/os-update.yml.
type Config struct {
	// Server is the repository: http(s)://HOST/PATH, or USER@HOST and
	// ssh://USER@HOST for a server that streams images over ssh.
	Server string `yaml:"server"`
	// Name is the image's name in the repository.
	Name string `yaml:"name"`
	// Class is the device class an image must be made for. Empty: the running
	// image's.
	Class string `yaml:"class"`
	// Activate is kexec or reboot. Empty: kexec.
	Activate string `yaml:"activate"`
	// PKey is the private key for ssh. [FleetKey] is brought when it is needed.
	PKey string `yaml:"pkey"`
	// CA is a PEM file with authorities for https, besides those of the system.
	CA string `yaml:"ca"`
	// Certificate and Key are PEM files by which an https server knows this
	// device. Empty: none.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// LimitRate bounds what is fetched, in bytes a second, as 1MiB. Empty: no
	// bound.
	LimitRate Rate `yaml:"limit_rate"`
	// Channel is which of the repository's release channels is followed, besides
	// stable, which is good for all. Empty: stable alone.
	Channel string `yaml:"channel"`
}

// Rate is a number of bytes a second; 0 is no bound.
type Rate int64

// UnmarshalYAML reads a number with an optional unit.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseRate(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: limit_rate %q: want bytes a second, as 500KiB or 1MiB", n.Line, n.Value)
	}
	*r = v
	return nil
}

// ParseRate reads a number of bytes a second with an optional unit K, M, G
// (powers of 1024, with or without B or iB). Empty is no bound.
func ParseRate(s string) (Rate, error) {
	if s == "" {
		return 0, nil
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	shift, ok := map[string]int{"": 0, "k": 10, "m": 20, "g": 30}[strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(s[end:], "B"), "i"))]
	v, err := strconv.ParseFloat(s[:end], 64)
	v *= float64(int64(1) << shift)
	if !ok || err != nil || math.IsNaN(v) || v < 1 || v > 1<<50 {
		return 0, fmt.Errorf("parse rate %q: want bytes a second, as 500KiB or 1MiB", s)
	}
	return Rate(v), nil
}

// LoadConfig reads a configuration file. A file that is not there is an empty
// configuration: the command line may hold everything that is needed.
func LoadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return ParseConfig(path, b)
}

// ParseConfig reads a configuration strictly: an unknown key, a repeated key
// and a wrong type are errors that name file and line. The keys may stand under
// a top-level `update:`, as they do on systems that this one replaces. On an
// update server `update:` is a list and, like `mirror:`, for os-update-daemon.
func ParseConfig(path string, b []byte) (Config, error) {
	var c Config
	var nested struct {
		Update *Config `yaml:"update"`
	}
	var flat struct {
		*Config `yaml:",inline"`
		Update  yaml.Node `yaml:"update"`
		Mirror  yaml.Node `yaml:"mirror"`
	}
	flat.Config = &c
	dst := any(&flat)
	if nests(b) {
		nested.Update = &c
		dst = &nested
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(dst); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, yamlError(path, err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%s: more than one YAML document", path)
	}
	if err := c.Check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// nests tells whether the document has its keys under update.
func nests(b []byte) bool {
	var top map[string]yaml.Node
	if err := yaml.Unmarshal(b, &top); err != nil {
		return false // the strict decoder says what is wrong
	}
	n, ok := top["update"]
	return ok && n.Kind != yaml.SequenceNode
}

// yamlError brings a decoder's errors into the form file:line: what.
func yamlError(path string, err error) error {
	var t *yaml.TypeError
	text := err.Error()
	if errors.As(err, &t) && len(t.Errors) > 0 {
		text = t.Errors[0]
	}
	text = strings.TrimPrefix(text, "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if line, what, ok := strings.Cut(rest, ": "); ok {
			what, _, _ = strings.Cut(what, " in type ") // which is about our source
			return fmt.Errorf("%s:%s: %s", path, line, what)
		}
	}
	return fmt.Errorf("%s: %s", path, text)
}

// Check says what makes a configuration unusable.
func (c Config) Check() error {
	switch c.Activate {
	case "", ActivateKexec, ActivateReboot:
	default:
		return fmt.Errorf("activate is %q, want kexec or reboot", c.Activate)
	}
	if (c.Certificate == "") != (c.Key == "") {
		return errors.New("certificate and key: one is given without the other")
	}
	if c.Server != "" {
		if _, err := ParseServer(c.Server); err != nil {
			return err
		}
	}
	if c.Name != "" && !plainName(c.Name) {
		return fmt.Errorf("image name %q: want letters, digits, '.', '_', '+' and '-', and no other", c.Name)
	}
	return nil
}

// plainName says whether a name may go into a URL, a file name and a remote
// command without any quoting.
func plainName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._+-", rune(c)) {
			return false
		}
	}
	return true
}

// Server is a parsed server address.
type Server struct {
	URL string // http(s) base without a slash at the end; empty for ssh
	SSH string // user@host
	// Port is ssh's port, empty for the default.
	Port string
}

// maxServer bounds an address, which is kept in the device's record.
const maxServer = 1024

// ParseServer reads a server address.
func ParseServer(s string) (Server, error) {
	bad := func(why string) (Server, error) {
		return Server{}, fmt.Errorf("server %q: %s (want https://HOST/PATH, ssh://USER@HOST or USER@HOST)", s, why)
	}
	if len(s) > maxServer {
		return bad(fmt.Sprintf("longer than %d bytes", maxServer))
	}
	if !strings.Contains(s, "://") {
		if user, host, ok := strings.Cut(s, "@"); !ok || !plainName(user) || !plainName(host) {
			return bad("not an address")
		}
		return Server{SSH: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("not an address")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return bad("it has a query or a fragment")
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return bad("no host")
		}
		if u.User != nil {
			return bad("passwords do not belong here")
		}
		return Server{URL: strings.TrimRight(u.String(), "/")}, nil
	case "ssh":
		if u.Path != "" && u.Path != "/" || u.User == nil || !plainName(u.User.Username()) || !plainName(u.Hostname()) {
			return bad("not an address")
		}
		return Server{SSH: u.User.Username() + "@" + u.Hostname(), Port: u.Port()}, nil
	}
	return bad("scheme " + u.Scheme)
}
