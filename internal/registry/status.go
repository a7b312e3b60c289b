package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/registry/head"
)

// States of a registry.
const (
	StateOK       = "ok"
	StateDegraded = "degraded"
)

// Status is what there is to say about the registry; sizes in bytes.
type Status struct {
	State     string    `json:"state"`
	Problem   string    `json:"problem,omitempty"`
	ToDo      string    `json:"hint,omitempty"`
	Policy    string    `json:"policy"`
	Device    string    `json:"device"` // of the built-in registry
	UUID      string    `json:"uuid,omitempty"`
	Encrypted bool      `json:"encrypted"`
	Slots     []string  `json:"key_slots,omitempty"` // what opens it: tpm2, recovery, key
	Active    string    `json:"active"`              // "built-in", or the device in its place
	Size      int64     `json:"size"`
	Free      int64     `json:"free"`
	MachineID string    `json:"machine_id"`
	Copy      string    `json:"header_copy,omitempty"` // current, or what is wrong with it
	Notes     []string  `json:"notes,omitempty"`
	Time      time.Time `json:"time"`
}

// Trouble returns what is wrong, nil if nothing is.
func (st *Status) Trouble() *Trouble {
	if st.State == StateOK {
		return nil
	}
	return &Trouble{st.Problem, st.ToDo}
}

// LoadStatus reads what the last Start came to.
func LoadStatus(path string) (*Status, error) {
	b, err := os.ReadFile(path)
	st := &Status{}
	if err == nil {
		err = json.Unmarshal(b, st)
	}
	if err != nil {
		return nil, fmt.Errorf("read registry state: %w", err)
	}
	return st, nil
}

func (st *Status) save() error {
	b, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(StateFile, append(b, '\n'), 0o644, renameio.WithTempDir("/run/eos")); err != nil {
		return fmt.Errorf("write registry state: %w", err)
	}
	if st.State == StateOK {
		err = os.WriteFile(OKFile, nil, 0o644)
	} else if err = os.Remove(OKFile); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("write registry state: %w", err)
	}
	return nil
}

// Status looks at the registry as it is now. What was wrong with the last Start still is, if there
// is no registry.
func (s *System) Status(ctx context.Context) *Status {
	last, err := LoadStatus(StateFile)
	var t *Trouble
	switch {
	case isMounted(builtinRoot) && isOpen():
		t = failing(builtinRoot)
	case err != nil:
		t = &Trouble{"the registry was not started", "systemctl start registry-rw"}
	case last.Trouble() != nil:
		t = last.Trouble()
	default:
		t = &Trouble{"the registry was stopped", "flake-registry --start brings it back"}
	}
	if last != nil {
		s.recall(last)
	}
	return s.look(ctx, t)
}

// isOpen tells whether there is a registry where flakes have theirs, and not the lid of [closePlaces].
func isOpen() bool {
	var fs unix.Statfs_t
	return isMounted(StorageDir) && unix.Statfs(StorageDir, &fs) == nil && fs.Type == unix.XFS_SUPER_MAGIC
}

// failing tells of a file system that the kernel has shut down.
func failing(root string) *Trouble {
	if _, err := os.ReadDir(root); err != nil {
		return &Trouble{"the file system of the registry has failed: " + err.Error(), "look at the disk (journalctl -k); a restart opens it anew"}
	}
	return nil
}

// glance fills in what is known without asking any program: sshd waits for a boot's Start.
func (s *System) glance(t *Trouble) *Status {
	st := &Status{State: StateOK, Policy: s.Config.Policy, Device: s.Device.Registry, Notes: slices.Clone(s.notes), Time: time.Now().UTC().Truncate(time.Second)}
	if t != nil {
		st.State, st.Problem, st.ToDo = StateDegraded, t.Problem, t.ToDo
	}
	st.MachineID, _ = MachineID() // none: the field is empty
	if s.Device.Registry != "" {
		kind, err := s.classify(s.Device.Registry)
		st.Encrypted = err == nil && kind == head.LUKS
	}
	st.Active = active()
	var fs unix.Statfs_t
	if t == nil && unix.Statfs(StorageDir, &fs) == nil {
		st.Size, st.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
		if st.Free < 1<<20 {
			st.Notes = append(st.Notes, fullNote)
		}
	}
	return st
}

const fullNote = "the registry is full: remove images and containers (podman system prune), or use a larger disk (--setup, --activate)"

// recall takes over what the last Start noted, but for what is looked at anew.
func (s *System) recall(last *Status) {
	old := slices.DeleteFunc(slices.Clone(last.Notes), func(n string) bool { return n == fullNote })
	s.notes = append(old, s.notes...)
}

// look fills in all of a status.
func (s *System) look(ctx context.Context, t *Trouble) *Status {
	st := s.glance(t)
	if st.Encrypted {
		st.UUID = s.builtinUUID(ctx)
		st.Slots = keySlots(ctx, s.Device.Registry)
		st.Copy = s.copyState()
	}
	return st
}

// copyState compares the copy on the boot partition with the header.
func (s *System) copyState() string {
	kept, err := s.readCopy()
	switch {
	case errors.Is(err, head.ErrNoCopy):
		return "missing"
	case err != nil:
		return "damaged"
	}
	content, err := copyHead(s.Device.Registry)
	if err != nil {
		return "not compared"
	}
	switch outdated, differs := head.Outdated(content, kept); {
	case outdated:
		return "outdated"
	case differs:
		return "differs, and the header was not changed: part of it may be damaged"
	}
	return "current"
}

// active names the registry that flakes use.
func active() string {
	switch {
	case isMounted(otherRoot):
		return sourceOf(otherRoot)
	case isMounted(builtinRoot):
		return "built-in"
	}
	return ""
}

// sourceOf returns the device of what is mounted at a folder; of a LUKS2 device the one below it.
func sourceOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "unknown"
	}
	sys, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return "unknown"
	}
	if below, err := os.ReadDir(sys + "/slaves"); err == nil && len(below) == 1 {
		sys = below[0].Name()
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(sys), "!", "/")
}

// Text writes a status for people.
func (st *Status) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name, format string, a ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, a...)) }
	line("state", "%s", st.State)
	if st.State != StateOK {
		line("problem", "%s", st.Problem)
		line("to do", "%s", st.ToDo)
	}
	line("device", "%s", st.Device)
	protection := "none"
	if st.Encrypted {
		protection = "LUKS2"
	}
	if len(st.Slots) > 0 {
		protection += ", opened by " + strings.Join(st.Slots, " or ")
	}
	line("encryption", "%s (policy %s)", protection, st.Policy)
	if st.Active != "" {
		line("active", "%s", st.Active)
	}
	if st.Size > 0 {
		line("space", "%s, %s free", humanize.IBytes(uint64(st.Size)), humanize.IBytes(uint64(st.Free)))
	}
	line("machine id", "%s", st.MachineID)
	if st.Copy != "" {
		line("header copy", "%s", st.Copy)
	}
	for _, n := range st.Notes {
		line("note", "%s", n)
	}
	return t.Flush()
}
