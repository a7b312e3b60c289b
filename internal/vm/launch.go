package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/command"
)

// startTime is how long QEMU may take to open its control socket. The program has to come
// off the disk first, on a busy host.
const startTime = 60 * time.Second

// runInto runs a program in the machine's folder that makes the file tmp, which then gets its
// name: a half made file is never taken for a whole one.
func runInto(ctx context.Context, c command.Cmd, m *Machine, tmp, file string) error {
	c.Dir = m.Folder
	if err := command.Run(ctx, c); err != nil {
		os.Remove(m.path(tmp))
		return fmt.Errorf("make %s: %w", m.path(file), err)
	}
	return os.Rename(m.path(tmp), m.path(file))
}

// launch starts the TPM and QEMU and writes down what runs. A free port may be taken by
// another between choosing and using it, so that is tried again.
func (h Host) launch(ctx context.Context, m *Machine, c Config) error {
	for try := 1; ; try++ {
		port, err := freePort(c.SSHPort)
		if err != nil {
			return err
		}
		m.SSHPort = port
		err = h.launchOnce(ctx, m, c)
		if err != nil && c.SSHPort == 0 && try < 4 && strings.Contains(err.Error(), "host forwarding") {
			continue
		}
		return err
	}
}

func (h Host) launchOnce(ctx context.Context, m *Machine, c Config) (err error) {
	for _, stale := range []string{pidFile, qmpSocket, serialSocket} {
		if err := os.Remove(m.path(stale)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	var started []*child
	defer func() {
		if err != nil {
			for _, p := range started {
				p.stop()
			}
		}
	}()
	if m.TPM {
		l, err := listen(m.Folder, tpmSocket)
		if err != nil {
			return err
		}
		defer l.Close()
		f, err := l.File()
		if err != nil {
			return err
		}
		defer f.Close()
		tpm, err := spawn(h.Tree.Command(tpmArgs()...), m.Folder, tpmLog, c.Bound, f)
		if err != nil {
			return fmt.Errorf("start TPM: %w", err)
		}
		started = append(started, tpm)
	}
	hw, err := m.hardware(c)
	if err != nil {
		return err
	}
	qemu, err := spawn(h.Tree.Command(Args(hw)...), m.Folder, qemuLog, c.Bound)
	if err != nil {
		return err
	}
	started = append(started, qemu)
	q, err := m.awaitQMP(ctx, qemu)
	if err != nil {
		return err
	}
	defer q.Close()
	if c.From != "" {
		if err := restore(ctx, q, hw.Restore); err != nil {
			return err
		}
	}
	m.qemu = qemu
	return m.save()
}

// Ended returns nil if QEMU ended because the guest powered off, or else why. It is for the
// process that started the machine, after the machine has ended.
func (m *Machine) Ended() error {
	<-m.qemu.done
	if m.qemu.err == nil {
		return nil
	}
	err := fmt.Errorf("machine %s ended: qemu: %w", m.Name, m.qemu.err)
	if line := lastLine(m.path(qemuLog)); line != "" {
		err = fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// hardware is what Args needs to know.
func (m *Machine) hardware(c Config) (Hardware, error) {
	hw := Hardware{
		Name: m.Name, Folder: m.Folder, Memory: m.Memory, CPUs: m.CPUs, Accel: m.Accel,
		SSHPort: m.SSHPort, MAC: m.MAC, LAN: c.LAN, TPM: m.TPM, GPU: m.GPU, Disk: c.Disk, Registry: c.Registry,
		Kernel: c.Kernel, Initrd: c.Initrd, Append: c.Append,
	}
	if c.From != "" {
		from, err := filepath.Abs(c.From)
		if err != nil {
			return hw, err
		}
		hw.Restore = filepath.Join(from, stateFile)
	}
	if m.Image == "" && c.Disk == "" {
		hw.Disk = NoDisk
	}
	if m.RegistrySize == 0 && c.Registry == "" {
		hw.Registry = NoDisk
	}
	return hw, nil
}

// awaitQMP connects to QEMU as soon as it listens, or says why it ended.
func (m *Machine) awaitQMP(ctx context.Context, qemu *child) (*QMP, error) {
	limit, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := m.QMP(limit)
		if err == nil {
			return q, nil
		}
		select {
		case <-qemu.done:
			return nil, fmt.Errorf("qemu ended: %s", lastLine(m.path(qemuLog)))
		case <-limit.Done():
			return nil, fmt.Errorf("wait for qemu: %w", errors.Join(context.Cause(limit), err))
		case <-tick.C:
		}
	}
}

// child is a program that was started here. It is waited for, so that it does not stay
// behind as a zombie while this process lives.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended, once done is closed
}

func (c *child) stop() {
	c.cmd.Process.Kill() // an os.Process knows when its process is gone
	<-c.done
}

// spawn starts a program in a session of its own, so that neither the end of this process
// nor a Ctrl-C in its terminal ends it; unless it is bound to this process. The files become
// its descriptors from 3 on.
func spawn(c command.Cmd, folder, log string, bound bool, files ...*os.File) (*child, error) {
	out, err := os.OpenFile(filepath.Join(folder, log), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	x := exec.Command(c.Argv[0], c.Argv[1:]...)
	x.Dir, x.Stdout, x.Stderr, x.ExtraFiles = folder, out, out, files
	if len(c.Env) > 0 {
		x.Env = append(x.Environ(), c.Env...)
	}
	x.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if bound {
		x.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	p := &child{cmd: x, done: make(chan struct{})}
	begun := make(chan error)
	go func() {
		defer close(p.done)
		if bound {
			// The kernel sends the signal when the thread ends that started the
			// program, so that thread has to stay.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		err := x.Start()
		begun <- err
		if err == nil {
			p.err = x.Wait()
		}
	}()
	if err := <-begun; err != nil {
		return nil, err
	}
	return p, nil
}
