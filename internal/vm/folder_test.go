package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct{ image, want string }{
		{"out/minimal-1.0.raw", "minimal-1.0"},
		{"/x/my image.img", "my-image"},
		{"../...raw", "machine"},
		{"grün.raw", "gr-n"},
		{strings.Repeat("a", 100) + ".raw", strings.Repeat("a", 64)},
		{"", "machine"},
	} {
		got := NameFor(tt.image)
		if got != tt.want || CheckName(got) != nil {
			t.Errorf("NameFor(%q) = %q, want %q", tt.image, got, tt.want)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "-x", "a b", "a,b", strings.Repeat("a", 65)} {
		if CheckName(bad) == nil {
			t.Errorf("CheckName(%q) = nil, want an error", bad)
		}
	}
}

// fakeTools runs fakes instead of the tools: qemu-img makes a file, QEMU is never reached.
type fakeTools struct{ script string }

func (f fakeTools) Command(argv ...string) command.Cmd {
	return command.Cmd{Argv: append([]string{"sh", "-c", f.script, "sh"}, argv...)}
}

func (f fakeTools) String() string { return "fake" }

// makeMachine puts a machine into the folder of a host, as if it had run.
func makeMachine(t *testing.T, h Host, name string) *Machine {
	t.Helper()
	folder, err := makeFolder(h.Machines, name)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Folder: folder, Info: Info{Name: name, Memory: 1 << 30, CPUs: 2, Accel: TCG, SSHPort: 1}}
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
	return m
}

// pretend starts a process that has the machine's pid file among its arguments, as QEMU has.
func pretend(t *testing.T, m *Machine) *exec.Cmd {
	t.Helper()
	c := exec.Command("sh", "-c", "exec sleep 600 & wait", "qemu", m.path(pidFile))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() {
		c.Wait()
		close(reaped)
	}()
	t.Cleanup(func() {
		c.Process.Kill()
		<-reaped
	})
	if err := os.WriteFile(m.path(pidFile), fmt.Appendln(nil, c.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	// The arguments are those of the program only when the kernel has replaced ours.
	for deadline := time.Now().Add(10 * time.Second); !m.Running(); {
		if time.Now().After(deadline) {
			t.Fatal("the machine's process is not recognized")
		}
	}
	return c
}

func TestStalePid(t *testing.T) {
	m := makeMachine(t, Host{Machines: t.TempDir()}, "one")
	// Another process, which happens to have the number.
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		other.Process.Kill()
		other.Wait()
	}()
	for _, content := range []string{
		fmt.Sprintln(other.Process.Pid), fmt.Sprintln(os.Getpid()), "1\n", "0\n", "-1\n", "", "x\n", "4194305\n",
	} {
		if err := os.WriteFile(m.path(pidFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if m.Running() {
			t.Errorf("with the pid file %q Running() = true, want false", content)
		}
		for name, err := range map[string]error{
			"PowerCut": m.PowerCut(t.Context()), "Stop": m.Stop(t.Context()),
		} {
			if !errors.Is(err, ErrNotRunning) {
				t.Errorf("with the pid file %q %s = %v, want %v", content, name, err, ErrNotRunning)
			}
		}
		if err := m.Wait(t.Context()); err != nil {
			t.Errorf("with the pid file %q Wait = %v, want nil", content, err)
		}
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
}

func TestPowerCutEndsOnlyTheMachine(t *testing.T) {
	h := Host{Machines: t.TempDir()}
	one, two := makeMachine(t, h, "one"), makeMachine(t, h, "two")
	pretend(t, one)
	pretend(t, two)
	if _, err := h.Find(""); err == nil || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("Find with two running = %v, want both names", err)
	}
	if err := one.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one.Running() || !two.Running() {
		t.Errorf("after a power cut of one: one runs %v, two runs %v, want false, true", one.Running(), two.Running())
	}
	m, err := h.Find("")
	if err != nil || m.Name != "two" {
		t.Errorf("Find with one running = %v, %v, want two", m, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := two.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a machine that runs = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestListAndFind(t *testing.T) {
	h := Host{Machines: filepath.Join(t.TempDir(), "none", "yet")}
	if all, err := h.List(); err != nil || len(all) != 0 {
		t.Errorf("List of a folder that is not there = %v, %v, want nothing", all, err)
	}
	if _, err := h.Open("one"); !errors.Is(err, ErrNoMachine) {
		t.Errorf("Open = %v, want %v", err, ErrNoMachine)
	}
	makeMachine(t, h, "b")
	makeMachine(t, h, "a")
	if err := os.MkdirAll(filepath.Join(h.Machines, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := h.List()
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
	}
	if want := []string{"a", "b"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("List = %q, %v, want %q", names, err, want)
	}
	if _, err := h.Find(""); err == nil || !strings.Contains(err.Error(), "none is running") {
		t.Errorf("Find with none running = %v", err)
	}
	if err := os.WriteFile(filepath.Join(h.Machines, "b", infoFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.List(); err == nil || !strings.Contains(err.Error(), infoFile) {
		t.Errorf("List with a broken machine = %v, want the name of the file", err)
	}
}

// TestStartRefuses looks at all that keeps a machine from being started, with tools that make
// disks and a QEMU that ends at once.
func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	h := Host{Machines: filepath.Join(dir, "m"), Cache: dir, Tree: fakeTools{`case $1 in
		qemu-img) for last; do prev=$f f=$last; done; [ "$2" = convert ] && prev=$f; : >"$prev";;
		*) echo no good >&2; exit 1;; esac`}}
	image := filepath.Join(dir, "a.raw")
	if err := os.WriteFile(image, make([]byte, 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "odd.raw")
	if err := os.WriteFile(odd, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	base := Config{Name: "m", Image: image, Accel: TCG, NoTPM: true}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"bad name", func(c *Config) { c.Name = "../m" }, "name machine"},
		{"no image", func(c *Config) { c.Image = "" }, "no image given"},
		{"missing image", func(c *Config) { c.Image = filepath.Join(dir, "none.raw") }, "no such file"},
		{"not a disk", func(c *Config) { c.Image = odd }, "not a raw disk image"},
		{"folder", func(c *Config) { c.Image = dir }, "not a raw disk image"},
		{"memory", func(c *Config) { c.Memory = 1024 }, "at least 64 MiB"},
		{"processors", func(c *Config) { c.CPUs = -1 }, "at least 1"},
		{"small disk", func(c *Config) { c.DiskSize = 512 }, "the image needs 1024"},
		{"qemu", func(c *Config) {}, "qemu ended: no good"},
	} {
		c := base
		tt.change(&c)
		_, err := h.Start(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Start = %v, want %q in it", tt.name, err, tt.want)
		}
	}
	if _, err := h.Open("m"); !errors.Is(err, ErrNoMachine) {
		t.Errorf("after failed starts Open = %v, want %v", err, ErrNoMachine)
	}

	m := makeMachine(t, h, "m")
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	m.Image, m.ImageSize, m.ImageTime = image, fi.Size(), fi.ModTime().UTC()
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
	// The image is the one it was: no objection, QEMU is reached.
	if _, err := h.Start(t.Context(), base); err == nil || !strings.Contains(err.Error(), "no good") {
		t.Errorf("Start on the same image = %v, want QEMU's error", err)
	}
	if err := os.Chtimes(image, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Start(t.Context(), base); !errors.Is(err, ErrChanged) {
		t.Errorf("Start on a changed image = %v, want %v", err, ErrChanged)
	}
	stateful := base
	stateful.From = m.Folder
	if _, err := h.Start(t.Context(), stateful); err == nil || !strings.Contains(err.Error(), "Fresh") {
		t.Errorf("Start from a saved state over another = %v, want a refusal", err)
	}
	keep := m.path("mine.txt")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := base
	fresh.Fresh = true
	if _, err := h.Start(t.Context(), fresh); err == nil || !strings.Contains(err.Error(), "no good") {
		t.Errorf("Start with Fresh = %v, want QEMU's error", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("Fresh removed a file that is not the machine's: %v", err)
	}

	pretend(t, m)
	if _, err := h.Start(t.Context(), base); !errors.Is(err, ErrRunning) {
		t.Errorf("Start of a running machine = %v, want %v", err, ErrRunning)
	}
	unlock, err := m.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := h.Start(t.Context(), base); err == nil || !strings.Contains(err.Error(), "another eos") {
		t.Errorf("Start under a lock = %v, want who holds it", err)
	}
}

// A machine that goes on from a saved state is the one that was saved, under another name.
func TestConfigureFrom(t *testing.T) {
	saved := makeMachine(t, Host{Machines: t.TempDir()}, "saved")
	saved.Memory, saved.CPUs, saved.TPM, saved.MAC, saved.RegistrySize = 512<<20, 1, true, mac("saved"), 1<<30
	if err := saved.save(); err != nil {
		t.Fatal(err)
	}
	m := &Machine{Info: Info{Name: "copy"}}
	if err := m.configure(Config{Name: "copy", From: saved.Folder, Memory: 2 << 30, CPUs: 4, NoTPM: true}, nil); err != nil {
		t.Fatal(err)
	}
	want := saved.Info
	want.Name, want.Started = "copy", m.Started
	if m.Info != want {
		t.Errorf("configure from a saved machine = %+v, want %+v", m.Info, want)
	}
	hw, err := m.hardware(Config{From: saved.Folder, Disk: "d"})
	if err != nil || hw.MAC != saved.MAC || hw.Restore != saved.path(stateFile) {
		t.Errorf("hardware = %+v, %v, want the address and the state of the saved machine", hw, err)
	}
	if mac("a") == mac("b") {
		t.Error("two machines have one address")
	}
}

func TestFreePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := l.Addr().(*net.TCPAddr).Port
	if _, err := freePort(taken); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is in use", taken)) {
		t.Errorf("freePort(%d) = %v, want that it is in use", taken, err)
	}
	l.Close()
	if got, err := freePort(taken); err != nil || got != taken {
		t.Errorf("freePort(%d) = %d, %v", taken, got, err)
	}
	if got, err := freePort(0); err != nil || got == 0 {
		t.Errorf("freePort(0) = %d, %v, want a port", got, err)
	}
}

// Sockets work in folders whose paths are longer than a socket's address.
func TestLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 60))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces the first
		l, err := listen(dir, "s")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Write([]byte("x"))
				c.Close()
			}
		}()
		c, err := dial(t.Context(), dir, "s")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if _, err := dial(t.Context(), dir, "none"); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("dial of a socket that is not there = %v, want its path", err)
	}
}
