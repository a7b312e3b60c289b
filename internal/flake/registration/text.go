package registration

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/unit"
)

// Options is a flake that is to be registered.
type Options struct {
	App       string // its command, an absolute path; the last part is the flake's name
	Image     string // name of its container
	Target    string // program in it; empty: as the flake; /: what the image says
	Base      string // container below it
	Layers    []string
	CheckHost bool
	Tar, Path []string // what of the host goes into the container
	Podman    []string // podman's options; empty: -ti
	RunAs     string   // root, or whoever calls
	Resume    bool
	Attach    bool
	Unit      string // name of a unit of systemd, without .service; empty: it has none
	User      bool   // that is one of a user's
	Notify    bool   // the application of the unit says itself that it is ready
}

// ErrOptions says that a flake like this cannot be registered.
var ErrOptions = errors.New("it cannot be registered")

// Name is the name of the flake.
func (o *Options) Name() string { return path.Base(o.App) }

// Check says what is wrong with the options.
func (o *Options) Check() error {
	if err := CheckApp(o.App); err != nil {
		return err
	}
	bad := func(format string, a ...any) error {
		return fmt.Errorf("flake %q: %w: %s", o.Name(), ErrOptions, fmt.Sprintf(format, a...))
	}
	switch {
	case o.Image == "":
		return bad("it has no container")
	case o.Target != "" && !path.IsAbs(o.Target):
		return bad("its program %q in the container is no absolute path", o.Target)
	case len(o.Layers) > 0 && o.Base == "":
		return bad("layers need a base")
	case o.Resume && o.Attach:
		return bad("resume and attach exclude each other")
	case o.Unit != "" && (o.Resume || o.Attach):
		return bad("a container that stays is no service")
	case o.Unit == "" && o.Notify:
		return bad("it has no unit that waits until it is ready")
	}
	if u := o.service(); u != nil {
		if err := u.Check(); err != nil {
			return fmt.Errorf("flake %q: %w: %w", o.Name(), ErrOptions, err)
		}
	}
	for _, name := range slices.Concat([]string{o.Image, o.Base}, o.Layers) {
		if strings.HasPrefix(name, "-") {
			return bad("%q is not the name of a container", name)
		}
	}
	for _, text := range slices.Concat([]string{o.Image, o.Target, o.Base, o.RunAs}, o.Layers, o.Tar, o.Path, o.Podman) {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return bad("%q is no text", text)
		}
	}
	return nil
}

// CheckApp says whether a command can be that of a flake.
func CheckApp(app string) error {
	name := path.Base(app)
	bad := func(why string) error { return fmt.Errorf("command %q: %w: %s", app, ErrOptions, why) }
	switch {
	case !path.IsAbs(app):
		return bad("want an absolute path")
	case path.Clean(app) != app || app == "/":
		return bad("want the path of a file, without //, . and ..")
	case !flake.ValidName(name):
		return bad("its name begins with a dot or is longer than 180 bytes")
	case !utf8.ValidString(app) || strings.ContainsFunc(app, unicode.IsControl):
		return bad("it has characters in it that are no text")
	case name == path.Base(Pilot):
		return bad("this is the name of the launcher")
	}
	return nil
}

// Text is the registration as a file, in the order of keys that the older system has.
func (o *Options) Text() ([]byte, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	options := slices.Clone(o.Podman)
	if len(options) == 0 {
		options = []string{"-ti"}
	}
	if o.Unit != "" && o.sdnotify() == "" {
		who := "conmon" // the service is ready when its container runs
		if o.Notify {
			who = "container"
		}
		options = append(options, "--sdnotify="+who)
	}
	doc := keys(
		"include", keys("tar", list(o.Tar), "path", list(o.Path)),
		"container", keys(
			"name", text(o.Image),
			"target_app_path", text(o.Target),
			"host_app_path", text(o.App),
			"base_container", text(o.Base),
			"check_host_dependencies", boolean(o.CheckHost),
			"layers", list(o.Layers),
			"runtime", keys(
				"runas", text(o.RunAs),
				"resume", boolean(o.Resume),
				"attach", boolean(o.Attach),
				"podman", list(options),
			),
		),
		"vm", text(""),
	)
	var out bytes.Buffer
	out.WriteString("---\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return nil, fmt.Errorf("write registration of %s: %w", o.Name(), err)
	}
	// What is written is what will be read, or it is not written.
	if _, err := flake.Parse(o.Name(), []flake.File{{Path: o.Name() + ".yaml", Text: out.Bytes()}}); err != nil {
		return nil, fmt.Errorf("write registration: %w", err)
	}
	return out.Bytes(), nil
}

// service is the flake as a service; nil if it is none.
func (o *Options) service() *unit.Unit {
	if o.Unit == "" {
		return nil
	}
	return &unit.Unit{Name: o.Unit, Flake: o.Name(), Command: o.App, User: o.User, Silent: o.sdnotify() == "ignore"}
}

// UnitText is the file of its unit.
func (o *Options) UnitText() ([]byte, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	return o.service().Text()
}

// sdnotify is what podman's options say of who tells that the container is ready.
func (o *Options) sdnotify() (who string) {
	for _, p := range o.Podman {
		if rest, ok := strings.CutPrefix(p, "--sdnotify"); ok && rest != "" && strings.ContainsRune("= ", rune(rest[0])) {
			who = rest[1:]
		}
	}
	return who
}

// keys makes a mapping of pairs of a key and its *yaml.Node.
func keys(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i < len(pairs); i += 2 {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: pairs[i].(string)}, pairs[i+1].(*yaml.Node))
	}
	return n
}

// text is a value that is ~ when it is not set.
func text(s string) *yaml.Node {
	if s == "" {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "~"}
	}
	return word(s)
}

func word(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func boolean(b bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(b)}
}

func list(words []string) *yaml.Node {
	if len(words) == 0 {
		return text("")
	}
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, w := range words {
		n.Content = append(n.Content, word(w))
	}
	return n
}
