package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/renameio/v2"

	"github.com/OSInside/eos/internal/command"
)

// Tools runs programs from the tools tree; *toolstree.Tree is one.
type Tools interface {
	Command(argv ...string) command.Cmd
	String() string
}

// Host is where machines live and what they run on.
type Host struct {
	Tree     Tools
	Machines string // folder with one folder per machine
	Cache    string // folder for what can be found out again

	kvm string // for tests: the device instead of /dev/kvm
}

// Info is what is known about a machine, running or not.
type Info struct {
	Name         string    `json:"name"`
	Image        string    `json:"image,omitempty"`
	ImageSize    int64     `json:"image_size,omitempty"`
	ImageTime    time.Time `json:"image_time,omitzero"`
	Memory       int64     `json:"memory"`
	CPUs         int       `json:"cpus"`
	Accel        Accel     `json:"accel"`
	SSHPort      int       `json:"ssh_port"`
	MAC          string    `json:"mac,omitempty"` // of the network card
	TPM          bool      `json:"tpm"`
	GPU          bool      `json:"gpu,omitempty"`
	RegistrySize int64     `json:"registry_size,omitempty"`
	Started      time.Time `json:"started,omitzero"`
}

// Machine is a machine's folder.
type Machine struct {
	Info
	Folder string

	qemu *child // when this process started it
}

// Errors that callers tell apart.
var (
	ErrNoMachine  = errors.New("no such machine")
	ErrRunning    = errors.New("machine is running")
	ErrNotRunning = errors.New("machine is not running")
	ErrChanged    = errors.New("image has changed since the machine was made")
)

// hinted is an error that knows what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint returns what to do about the error, for package cli.
func (e hinted) Hint() string { return e.hint }

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName refuses names that are no plain folder names.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name machine %q: want at most 64 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

// NameFor returns the name of the machine that runs an image when none is given.
func NameFor(image string) string {
	name := filepath.Base(image)
	for _, ext := range []string{".raw", ".img", ".qcow2"} {
		name = strings.TrimSuffix(name, ext)
	}
	name = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r < 0x80 && validName.MatchString("x"+string(r)) {
			return r
		}
		return '-'
	}, name), "._-")
	if name == "" {
		return "machine"
	}
	return name[:min(len(name), 64)]
}

// Open returns the machine of that name. The error wraps [ErrNoMachine] if there is none.
func (h Host) Open(name string) (*Machine, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(filepath.Join(h.Machines, name))
	if err != nil {
		return nil, fmt.Errorf("open machine %s: %w", name, err)
	}
	return openFolder(folder)
}

func openFolder(folder string) (*Machine, error) {
	name := filepath.Base(folder)
	b, err := os.ReadFile(filepath.Join(folder, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hinted{fmt.Errorf("open machine %s: %w in %s", name, ErrNoMachine, filepath.Dir(folder)), "eos ps lists the machines, eos run makes one"}
	}
	if err != nil {
		return nil, fmt.Errorf("open machine %s: %w", name, err)
	}
	m := &Machine{Folder: folder}
	if err := json.Unmarshal(b, &m.Info); err != nil {
		return nil, fmt.Errorf("open machine %s: parse %s: %w", name, filepath.Join(folder, infoFile), err)
	}
	return m, nil
}

// List returns all machines in the order of their names.
func (h Host) List() ([]*Machine, error) {
	entries, err := os.ReadDir(h.Machines)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var all []*Machine
	for _, e := range entries {
		m, err := h.Open(e.Name())
		if errors.Is(err, ErrNoMachine) || CheckName(e.Name()) != nil {
			continue // a folder that never became a machine
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Find returns the machine of that name, or without a name the one that is meant: the only
// one that is running.
func (h Host) Find(name string) (*Machine, error) {
	if name != "" {
		return h.Open(name)
	}
	all, err := h.List()
	if err != nil {
		return nil, err
	}
	running := slices.DeleteFunc(all, func(m *Machine) bool { return !m.Running() })
	switch len(running) {
	case 1:
		return running[0], nil
	case 0:
		return nil, hinted{fmt.Errorf("find machine in %s: none is running", h.Machines), "start one with eos run --detach"}
	}
	var names []string
	for _, m := range running {
		names = append(names, m.Name)
	}
	return nil, hinted{fmt.Errorf("find machine: several are running: %s", strings.Join(names, ", ")), "say which with --name"}
}

// path returns the path of a file in the folder.
func (m *Machine) path(file string) string { return filepath.Join(m.Folder, file) }

// SerialLog returns the path of the file that keeps all that the machine ever wrote to its
// serial console.
func (m *Machine) SerialLog() string { return m.path(serialLog) }

// save writes what is known about the machine.
func (m *Machine) save() error {
	b, err := json.MarshalIndent(m.Info, "", "  ")
	if err != nil {
		return fmt.Errorf("save machine %s: %w", m.Name, err)
	}
	if err := renameio.WriteFile(m.path(infoFile), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save machine %s: %w", m.Name, err)
	}
	return nil
}

// lock keeps others from starting or saving the machine. It does not wait.
func (m *Machine) lock() (unlock func(), err error) {
	f, err := os.OpenFile(m.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock machine %s: %w", m.Name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock machine %s: another eos is working on it", m.Name)
		}
		return nil, fmt.Errorf("lock machine %s: %w", m.Name, err)
	}
	return func() { f.Close() }, nil
}

// forget removes the machine's state, and nothing in the folder that is not part of it.
func (m *Machine) forget() error {
	for _, f := range []string{diskFile, registryFile, varsFile, stateFile, tpmDir, serialLog, qemuLog, tpmLog, infoFile} {
		if err := os.RemoveAll(m.path(f)); err != nil {
			return fmt.Errorf("forget machine %s: %w", m.Name, err)
		}
	}
	return nil
}
