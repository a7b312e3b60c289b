package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Config says what machine to start.
type Config struct {
	Name   string
	Image  string // raw disk image, read only; not needed for a machine that exists
	From   string // folder made by Save: go on from there instead of powering on
	Memory int64  // bytes; 0: 1 GiB
	CPUs   int    // 0: 2
	Accel  Accel  // empty: Auto

	SSHPort      int   // on 127.0.0.1, forwarded to ssh; 0: any that is free
	DiskSize     int64 // what the guest sees; 0: as large as the image
	RegistrySize int64 // size of a second, empty disk; 0: none
	NoTPM        bool
	GPU          bool // a graphics card
	LAN          int  // port of a network with other machines of this host; 0: none

	Fresh bool // forget the machine's state first
	Bound bool // the machine ends with this process

	// Unix sockets of NBD servers that serve the disks instead of files in the folder.
	Disk, Registry string

	// Boot this kernel instead of what is on the disk.
	Kernel, Initrd, Append string

	Note func(format string, a ...any) // gets lines for people; may be nil
}

// Start starts a machine and returns as soon as QEMU runs; the guest has then only begun to
// boot. The machine outlives this process unless the config binds it. The error wraps
// [ErrRunning] if the machine runs already and [ErrChanged] if its image is not the one its
// disk was made on.
func (h Host) Start(ctx context.Context, c Config) (*Machine, error) {
	m, err := h.start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", c.Name, err)
	}
	return m, nil
}

func (h Host) start(ctx context.Context, c Config) (*Machine, error) {
	if err := CheckName(c.Name); err != nil {
		return nil, err
	}
	folder, err := makeFolder(h.Machines, c.Name)
	if err != nil {
		return nil, err
	}
	m := &Machine{Folder: folder, Info: Info{Name: c.Name}}
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if pid := m.Pid(); pid != 0 {
		return nil, hinted{fmt.Errorf("%w (process %d)", ErrRunning, pid), "eos console and eos ssh reach it, eos stop ends it, --name makes another"}
	}
	if err := m.endTPM(ctx); err != nil {
		return nil, err
	}
	if c.Fresh {
		if err := m.forget(); err != nil {
			return nil, err
		}
	}
	old, err := openFolder(folder)
	switch {
	case errors.Is(err, ErrNoMachine):
		// What is left of a start that did not get as far as to say what it is.
		if err := m.forget(); err != nil {
			return nil, err
		}
		old = nil
	case err != nil:
		return nil, err
	case c.From != "":
		return nil, errors.New("has state of its own; start from a saved one with Fresh")
	}
	if err := m.configure(c, old); err != nil {
		return nil, err
	}
	if err := h.accelerate(ctx, m, c); err != nil {
		return nil, err
	}
	if err := h.furnish(ctx, m, c); err != nil {
		return nil, err
	}
	if err := h.launch(ctx, m, c); err != nil {
		return nil, err
	}
	return m, nil
}

// makeFolder makes the machine's folder and returns its one true path, by which its
// processes are known again.
func makeFolder(machines, name string) (string, error) {
	folder, err := filepath.Abs(filepath.Join(machines, name))
	if err != nil {
		return "", err
	}
	// Disks may hold keys of the guest: nobody else's business.
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(folder)
}

// configure fills in what the machine is, from what is asked for and what it was.
func (m *Machine) configure(c Config, old *Machine) error {
	if c.From != "" {
		saved, err := openFolder(c.From)
		if err != nil {
			return fmt.Errorf("open saved machine: %w", err)
		}
		// Memory and devices have to be those that were saved.
		m.Info = saved.Info
		m.Name, m.Started = c.Name, time.Now().UTC()
		return nil
	}
	// A saved machine keeps its address: the guest knows it, and so does QEMU's network.
	m.MAC = mac(m.Name)
	if old != nil && old.MAC != "" {
		m.MAC = old.MAC
	}
	m.Memory = cmp.Or(c.Memory, 1<<30)
	m.CPUs = cmp.Or(c.CPUs, 2)
	m.TPM, m.GPU = !c.NoTPM, c.GPU
	m.RegistrySize = c.RegistrySize
	m.Started = time.Now().UTC().Truncate(time.Second)
	if m.Memory < 64<<20 {
		return fmt.Errorf("memory of %d bytes: want at least 64 MiB", m.Memory)
	}
	if m.CPUs < 1 {
		return fmt.Errorf("%d CPUs: want at least 1", m.CPUs)
	}
	if old != nil {
		m.Image, m.ImageSize, m.ImageTime = old.Image, old.ImageSize, old.ImageTime
	}
	if c.Disk != "" || c.Kernel != "" && c.Image == "" {
		return nil
	}
	image := cmp.Or(c.Image, m.Image)
	if image == "" {
		return errors.New("no image given")
	}
	image, err := filepath.Abs(image)
	if err != nil {
		return err
	}
	fi, err := os.Stat(image)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() == 0 || fi.Size()%512 != 0 {
		return hinted{fmt.Errorf("%s is not a raw disk image", image), "give the .raw file that eos build made, unpacked"}
	}
	when := fi.ModTime().UTC()
	if old != nil && old.Image != "" && (old.Image != image || old.ImageSize != fi.Size() || !old.ImageTime.Equal(when)) {
		return hinted{fmt.Errorf("%w: its disk was made on %s of %s", ErrChanged, old.Image, old.ImageTime.Format(time.RFC3339)),
			"--fresh forgets the machine's state, --name makes another machine"}
	}
	m.Image, m.ImageSize, m.ImageTime = image, fi.Size(), when
	return nil
}

// accelerate decides what executes the guest.
func (h Host) accelerate(ctx context.Context, m *Machine, c Config) error {
	want := cmp.Or(c.Accel, Auto)
	if c.From != "" {
		if want != Auto && want != m.Accel {
			return fmt.Errorf("machine was saved under %s, cannot go on under %s", m.Accel, want)
		}
		return nil
	}
	use, why, err := h.Choose(ctx, want)
	if err != nil {
		return err
	}
	m.Accel = use
	if why != "" && c.Note != nil {
		c.Note("no KVM, the machine is emulated in software and slow: %s", why)
	}
	return nil
}

// furnish makes what the machine has on disk and is not there yet.
func (h Host) furnish(ctx context.Context, m *Machine, c Config) error {
	if err := os.MkdirAll(m.path(tpmDir), 0o700); err != nil {
		return err
	}
	if c.From != "" {
		return h.restoreFiles(ctx, m, c)
	}
	if err := h.make(ctx, m, varsFile, "convert", "-q", "-f", "raw", "-O", "qcow2", firmwareVars); err != nil {
		return err
	}
	if c.Disk == "" && m.Image != "" {
		size := max(c.DiskSize, m.ImageSize)
		if c.DiskSize != 0 && c.DiskSize < m.ImageSize {
			return fmt.Errorf("disk of %d bytes: the image needs %d", c.DiskSize, m.ImageSize)
		}
		if err := h.makeSized(ctx, m, diskFile, size, "-b", m.Image, "-F", "raw"); err != nil {
			return err
		}
	}
	if c.Registry == "" && m.RegistrySize > 0 {
		return h.makeSized(ctx, m, registryFile, m.RegistrySize)
	}
	return nil
}

// makeSized makes an empty qcow2 file, or an overlay over another file.
func (h Host) makeSized(ctx context.Context, m *Machine, file string, size int64, args ...string) error {
	if _, err := os.Lstat(m.path(file)); err == nil {
		return nil
	}
	args = append([]string{"create", "-q", "-f", "qcow2"}, args...)
	tmp := file + ".new"
	c := h.Tree.Command(append(append([]string{"qemu-img"}, args...), tmp, fmt.Sprint(size))...)
	return runInto(ctx, c, m, tmp, file)
}

// make makes a file of the machine with qemu-img unless it is there.
func (h Host) make(ctx context.Context, m *Machine, file string, args ...string) error {
	if _, err := os.Lstat(m.path(file)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := file + ".new"
	c := h.Tree.Command(append(append([]string{"qemu-img"}, args...), tmp)...)
	return runInto(ctx, c, m, tmp, file)
}

// lastLine returns the end of a log for an error message.
func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
