package flake

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
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

// Labels of a container of a flake.
const (
	Label         = "eos.flake"       // which one it is of
	LabelInstance = "eos.instance"    // by what name it was called for
	LabelStays    = "eos.flake.stays" // true: it outlives the call, and a restart of the system
)

// Situation is what else decides how a flake is started.
type Situation struct {
	Registry registrystate.State
	Own      bool   // it has no more rights than its caller
	Home     string // of the user it runs as
	Terminal bool   // standard input and output are a terminal, which is the caller's to use
	// Delegated says that the caller's control group is his to divide.
	Delegated bool
	Random    string // a part for the names of containers that have no other
	PidFile   string // where podman notes the container's first process
	// Getenv and Exists are the caller's environment and files.
	Getenv func(string) string
	Exists func(path string) bool
}

// ErrNoRegistry says that a flake needs the registry, which is not there.
var ErrNoRegistry = errors.New("the registry is not there")

// Launch is how a flake is started, decided for one call. All command lines begin with
// [Launch.Engine]; images are named when they are known.
type Launch struct {
	Engine []string // podman, with the store it works on
	Memory bool     // that store is in memory
	Name   string   // of the container
	Given  Options  // podman's, of the registration
	// Terminal says that the application gets one of its own. Through says that it gets the
	// very streams of the caller; otherwise podman stands between.
	Terminal, Through bool
	Single            bool // its name is not made up for this call: there is one at a time

	r *Registration
	c *Call
	s Situation
}

// Decide says how the flake is started.
//
// A flake that is part of the image and root's needs no registry: without one, podman writes
// to memory. One that is read-only has nothing to write, so this is how it is started always:
// whatever is wrong with the registry, the device has its update key. All others have nothing
// to be started from.
func Decide(r *Registration, c *Call, s Situation) (*Launch, error) {
	// What podman does for a flake is not worth a line in a journal, least of all a service's own.
	l := &Launch{Engine: []string{Podman, "--events-backend=none"}, r: r, c: c, s: s}
	var err error
	if l.Given, err = podmanOptions(r, c, s); err != nil {
		return nil, err
	}
	if err := r.check(&l.Given); err != nil {
		return nil, err
	}
	switch {
	case r.Shipped && r.Root() && (!s.Registry.OK || l.Given.Has("--read-only")):
		l.Engine, l.Memory = append([]string{Podman}, InMemory()...), true
	case !s.Registry.OK:
		return nil, fmt.Errorf("start flake %s: %w (%s)", r.Name, ErrNoRegistry, s.Registry.Reason)
	}
	l.Terminal = l.Given.Terminal && s.Terminal
	l.Through = !l.Terminal && !l.Given.Has("--log-driver", "--attach", "-a", "--detach", "-d")
	instance := c.Instance
	if l.Name = l.Given.value("--name"); l.Name == "" {
		if instance == "" && r.Mode() == Plain {
			instance = s.Random
		}
		l.Name = ContainerName(r.Name, instance)
	}
	l.Single = l.Given.value("--name") != "" || instance != s.Random
	return l, nil
}

// ContainerName is the name of a flake's container: podman takes letters, digits and ._- only.
// Different flakes and instances have different names.
func ContainerName(name, instance string) string {
	var b strings.Builder
	b.WriteString("flake.")
	whole := name
	if instance != "" {
		whole += "@" + instance
	}
	for i := range len(whole) {
		switch c := whole[i]; {
		case c == '@' && i >= len(name):
			b.WriteString("_.")
		case c == '_':
			b.WriteString("__")
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_x%02x", c)
		}
	}
	return b.String()
}

// StateFile is the name of the file in which launchers keep something of a container.
func StateFile(container, ending string) string {
	if len(container) > 200 { // a name of a file has 255 bytes
		container = fmt.Sprintf("flake-%x", sha256.Sum256([]byte(container)))
	}
	return container + ending
}

// Run is the command line of a plain flake. Podman's own exit status is then that of the
// application; 125 and more are podman's. The container goes when the application ends.
func (l *Launch) Run(image string) []string {
	argv := l.container("run", "--rm")
	if l.Single {
		argv = append(argv, "--replace") // what a power cut has left of it
	}
	if l.s.PidFile != "" && !l.Given.Has("--pidfile") {
		argv = append(argv, "--pidfile", l.s.PidFile)
	}
	if l.s.Delegated && !l.Given.Has("--cgroups", "--cgroup-parent", "--pod") {
		argv = append(argv, "--cgroups=split") // limits of a service are those of its container
	}
	if l.needsInit() {
		argv = append(argv, first...)
	}
	if l.Given.Input {
		argv = append(argv, "--interactive")
	}
	if l.Terminal {
		// The default keys to detach with would hold back what is typed.
		argv = append(append(argv, "--tty", "--detach-keys="), l.term()...)
	}
	switch {
	case l.Given.Has("--log-driver", "--detach", "-d"):
	case l.Through:
		argv = append(argv, "--log-driver=passthrough")
	default:
		argv = append(argv, "--log-driver=none")
	}
	return l.application(argv, image)
}

// first puts a first process before the application. This one, unlike podman's usual one, keeps
// the exit statuses 126 and 127.
var first = []string{"--init", "--init-path=/usr/bin/tini-static"}

// PidFile is where podman notes the container's first process; empty: nowhere.
func (l *Launch) PidFile() string {
	if file := l.Given.value("--pidfile"); file != "" {
		return file
	}
	return l.s.PidFile
}

// needsInit tells whether a first process is put before the application. The kernel keeps
// signals from the first process of a container that it does not expect, and orphans are
// its to collect; a command has neither duty. What wants to be first is left alone.
func (l *Launch) needsInit() bool {
	if l.Given.Has("--init", "--pid", "--systemd") || l.r.Mode() == Attach {
		return false
	}
	base := path.Base(l.r.Container.Target)
	return base != "/" && base != "init" && base != "systemd"
}

// Create makes the container of an attach flake.
func (l *Launch) Create(image string) []string {
	argv := l.container("create", "--label", LabelStays+"=true")
	if l.Given.Input {
		argv = append(argv, "--interactive")
	}
	if l.Given.Terminal {
		argv = append(argv, "--tty")
	}
	if !l.Given.Has("--log-driver") {
		argv = append(argv, "--log-driver=none")
	}
	return l.application(argv, image)
}

// StartAttached starts that container if it does not run, and attaches to it.
func (l *Launch) StartAttached() []string {
	argv := append(slices.Clone(l.Engine), "start", "--attach")
	if l.Given.Input {
		argv = append(argv, "--interactive")
	}
	return append(argv, l.Name)
}

// forever is how long the container of a resume flake sleeps, as in the older system.
const forever = "4294967295d"

// Keep starts the container of a resume flake, which sleeps.
func (l *Launch) Keep(image string) []string {
	argv := l.container("run", "--label", LabelStays+"=true", "--detach")
	if !l.Given.Has("--init", "--pid") {
		argv = append(argv, first...)
	}
	if !l.Given.Has("--log-driver") {
		argv = append(argv, "--log-driver=none")
	}
	argv = append(argv, l.Given.Words...)
	return append(argv, "--entrypoint", "sleep", image, forever)
}

// Exec has podman start the application in the container of a resume flake.
func (l *Launch) Exec() []string {
	argv := append(slices.Clone(l.Engine), "exec")
	if l.Given.Input {
		argv = append(argv, "--interactive")
	}
	if l.Terminal {
		argv = append(append(argv, "--tty", "--detach-keys="), l.term()...)
	}
	return append(append(argv, l.Name), l.Command()...)
}

// term tells the application what terminal it has.
func (l *Launch) term() []string {
	if term := l.s.Getenv("TERM"); term != "" {
		return []string{"--env", "TERM=" + term}
	}
	return nil
}

// Command is the application with its arguments, where the image says nothing of it.
func (l *Launch) Command() []string {
	return append([]string{l.r.program()}, l.c.Args...)
}

// Podman is a command line of podman's on the store of the flake.
func (l *Launch) Podman(args ...string) []string { return append(slices.Clone(l.Engine), args...) }

// container begins a command line that makes one.
func (l *Launch) container(verb string, args ...string) []string {
	argv := append(append(slices.Clone(l.Engine), verb), args...)
	argv = append(argv, "--pull=never", "--label", Label+"="+l.r.Name)
	if l.c.Instance != "" {
		argv = append(argv, "--label", LabelInstance+"="+l.c.Instance)
	}
	if l.Given.value("--name") == "" {
		argv = append(argv, "--name", l.Name)
	}
	return argv
}

// application ends a command line with what is run.
func (l *Launch) application(argv []string, image string) []string {
	argv = append(argv, l.Given.Words...)
	if program := l.r.program(); program != "" {
		argv = append(argv, "--entrypoint", program)
	}
	return append(append(argv, image), l.c.Args...)
}

// program is what is started in the container; empty: what the image says.
func (r *Registration) program() string {
	switch target := r.Container.Target; target {
	case "":
		return r.Name
	case "/":
		return ""
	default:
		return target
	}
}
