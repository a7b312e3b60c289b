package flake

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/registrystate"
)

// Podman is the program.
const Podman = "/usr/bin/podman"

// Where podman keeps what it writes for a flake that needs no registry: in memory. Container
// images are read from the store in the image, so this holds little.
const (
	memoryStore = "/run/eos/flakes/storage"
	memoryRun   = "/run/eos/flakes/run"
)

// InMemory are podman's arguments for that store.
func InMemory() []string {
	return []string{
		"--root", memoryStore, "--runroot", memoryRun, "--storage-driver", "overlay",
		"--storage-opt", "additionalimagestore=" + ImageStore, "--events-backend", "none",
	}
}

// Labels of a container that say which flake it is of, and by what name it was called for.
const (
	Label         = "eos.flake"
	LabelInstance = "eos.instance"
)

// Situation is what else decides how a flake is started.
type Situation struct {
	Registry registrystate.State
	Terminal bool // standard input and output are one
	// Getenv and Exists are the caller's environment and files.
	Getenv func(string) string
	Exists func(path string) bool
}

// ErrNoRegistry says that a flake needs the registry, which is not there.
var ErrNoRegistry = errors.New("the registry is not there")

// Argv returns the command line that starts the flake. Podman's own exit status is then that
// of the application; 125 and more are podman's.
//
// A flake that is part of the image and root's needs no registry: without one, podman writes
// to memory. One that is read-only has nothing to write, so this is how it is started always:
// whatever is wrong with the registry, the device has its update key. All others have nothing
// to be started from.
func Argv(r *Registration, c *Call, s Situation) ([]string, error) {
	if err := r.Supported(); err != nil {
		return nil, err
	}
	argv := []string{Podman}
	switch {
	case r.Shipped && r.Root() && (!s.Registry.OK || slices.Contains(r.Container.Runtime.Podman, "--read-only")):
		argv = append(argv, InMemory()...)
	case !s.Registry.OK:
		return nil, fmt.Errorf("start flake %s: %w (%s)", r.Name, ErrNoRegistry, s.Registry.Reason)
	}
	argv = append(argv, "run", "--rm")
	if r.Shipped {
		argv = append(argv, "--pull=never") // it is in the image, or nowhere
	} else {
		argv = append(argv, "--pull=missing")
	}
	argv = append(argv, "--label", Label+"="+r.Name)
	if c.Instance != "" {
		argv = append(argv, "--label", LabelInstance+"="+c.Instance)
		// Podman's names have no @ and no =.
		argv = append(argv, "--name", r.Name+"."+strings.NewReplacer("@", ".", "=", ".").Replace(c.Instance))
	}
	options, err := podmanOptions(r, c, s)
	if err != nil {
		return nil, err
	}
	argv = append(argv, options...)
	switch target := r.Container.Target; target {
	case "":
		argv = append(argv, "--entrypoint", r.Name)
	case "/": // what the image says
	default:
		argv = append(argv, "--entrypoint", target)
	}
	argv = append(argv, r.Container.Name)
	return append(argv, c.Args...), nil
}

// podmanOptions are those of the registration, as words.
func podmanOptions(r *Registration, c *Call, s Situation) ([]string, error) {
	given := r.Container.Runtime.Podman
	if len(given) == 0 {
		given = []string{"--interactive", "--tty"}
	}
	var out []string
	for _, o := range given {
		words := split(o)
		for i, w := range words {
			var err error
			if words[i], err = expand(w, s.Getenv); err != nil {
				return nil, fmt.Errorf("start flake %s: option %q: %w", r.Name, o, err)
			}
		}
		switch host := volumeHost(words); {
		case host != "" && c.IgnoreMissingVolume && !s.Exists(host):
		case len(words) == 1 && !s.Terminal:
			out = append(out, withoutTerminal(words[0])...)
		default:
			out = append(out, words...)
		}
	}
	return out, nil
}

// split makes words of an option: it is split once, at its first blank.
func split(o string) []string {
	if name, rest, two := strings.Cut(o, " "); two {
		return []string{name, rest}
	}
	return []string{o}
}

// withoutTerminal takes the wish for a terminal out of an option: in a pipe it would mix
// standard error into the output, and change line ends.
func withoutTerminal(o string) []string {
	switch o {
	case "-t", "--tty", "--tty=true":
		return nil
	case "-ti", "-it":
		return []string{"-i"}
	}
	return []string{o}
}

var variable = regexp.MustCompile(`%[A-Z]+`)

// expand puts the environment in the place of %NAME, once: what a variable holds is not
// looked at again. A variable that is not set is left to be seen, as $NAME.
func expand(s string, getenv func(string) string) (string, error) {
	out := variable.ReplaceAllStringFunc(s, func(v string) string {
		if text := getenv(v[1:]); text != "" {
			return text
		}
		return "$" + v[1:]
	})
	if strings.ContainsRune(out, 0) {
		return "", errors.New("it has a zero byte in it")
	}
	return out, nil
}

// volumeHost returns the path on the host of an option for a volume; empty if it is none.
func volumeHost(words []string) string {
	name, value, ok := strings.Cut(words[0], "=")
	if len(words) == 2 {
		name, value, ok = words[0], words[1], true
	}
	host, _, _ := strings.Cut(value, ":")
	if !ok || name != "--volume" && name != "-v" || !path.IsAbs(host) {
		return ""
	}
	return host
}

// StateFolder returns the folder on the host where a shipped flake keeps its state, which
// the pilot makes if need be; empty if it has none. It is the volume that has the flake's
// own name below [StateDir].
func StateFolder(r *Registration) string {
	if !r.Shipped {
		return ""
	}
	for _, o := range r.Container.Runtime.Podman {
		if host := volumeHost(split(o)); host == path.Join(StateDir, r.Name) {
			return host
		}
	}
	return ""
}
