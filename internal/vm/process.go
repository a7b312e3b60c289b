package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pid returns the process id of the machine's QEMU, or 0 when it does not run. A pid file
// that is left over, even one whose number another process has now, is seen through.
func (m *Machine) Pid() int {
	pid := readPid(m.path(pidFile))
	if pid == 0 || !hasArg(pid, m.path(pidFile)) {
		return 0
	}
	return pid
}

// Running reports whether the machine's QEMU runs.
func (m *Machine) Running() bool { return m.Pid() != 0 }

func readPid(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// hasArg reports whether the process has that argument. One that has ended has none.
func hasArg(pid int, arg string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	for a := range bytes.SplitSeq(b, []byte{0}) {
		if string(a) == arg {
			return true
		}
	}
	return false
}

// handle is a process that cannot turn into another one.
type handle int

// open returns a handle on the machine's QEMU. The command line is read again after the
// handle is open: from then on the process is certain to be ours.
func (m *Machine) open() (handle, error) {
	pid := m.Pid()
	if pid == 0 {
		return -1, fmt.Errorf("machine %s: %w", m.Name, ErrNotRunning)
	}
	return openProcess(pid, func() bool { return hasArg(pid, m.path(pidFile)) }, m.Name)
}

func openProcess(pid int, ours func() bool, name string) (handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, fmt.Errorf("machine %s: %w", name, ErrNotRunning)
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", pid, err)
	}
	if !ours() {
		unix.Close(fd)
		return -1, fmt.Errorf("machine %s: %w", name, ErrNotRunning)
	}
	return handle(fd), nil
}

func (p handle) close() { unix.Close(int(p)) }

func (p handle) kill() error {
	err := unix.PidfdSendSignal(int(p), unix.SIGKILL, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill qemu: %w", err)
	}
	return nil
}

// wait returns when the process has ended, or with the context's error.
func (p handle) wait(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for qemu: %w", err)
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Wait returns when the machine's QEMU has ended. It returns at once if it does not run.
func (m *Machine) Wait(ctx context.Context) error {
	p, err := m.open()
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	return p.wait(ctx)
}

// buttonTime is how long a guest has to react to its power button before Ctrl-Alt-Del.
const buttonTime = 5 * time.Second

// Stop shuts the guest down and waits until the machine is off. The context bounds how long;
// the machine is left running then.
//
// It presses the power button, which systemd-logind acts upon. A guest need not have that, so
// next comes Ctrl-Alt-Del, by which systemd itself shuts down in good order in order to
// reboot; QEMU is told before to take the reboot as the end.
func (m *Machine) Stop(ctx context.Context) error {
	p, err := m.open()
	if err != nil {
		return err
	}
	defer p.close()
	if err := m.shutDown(ctx, p); err != nil {
		return hinted{fmt.Errorf("stop machine %s: %w", m.Name, err), "eos stop --power-cut ends it the hard way"}
	}
	return nil
}

func (m *Machine) shutDown(ctx context.Context, p handle) error {
	if err := m.tell(ctx, step{"set-action", args{"reboot": "shutdown"}}, step{"system_powerdown", nil}); err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, buttonTime)
	defer cancel()
	err := p.wait(soon)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil {
		var keys []any
		for _, k := range []string{"ctrl", "alt", "delete"} {
			keys = append(keys, args{"type": "qcode", "data": k})
		}
		err = m.tell(ctx, step{"send-key", args{"keys": keys}})
		if ended := p.wait(ctx); ended == nil {
			return nil // perhaps while it was being told
		} else if err == nil {
			err = ended
		}
	}
	// It goes on, so a reboot is a reboot again.
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = m.tell(again, step{"set-action", args{"reboot": "reset"}})
	return fmt.Errorf("the guest does not shut down: %w", err)
}

// PowerCut ends the machine at once, as when the plug is pulled.
func (m *Machine) PowerCut(ctx context.Context) error {
	p, err := m.open()
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.kill(); err != nil {
		return err
	}
	// SIGKILL is not refused, but the kernel may take a moment to give the memory back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return p.wait(ctx)
}

// endTPM waits until the TPM of the machine's last run has ended, which it does by itself
// when QEMU is gone, and kills it if it does not.
func (m *Machine) endTPM(ctx context.Context) error {
	pid := readPid(m.path(tpmPid))
	// The arguments of the TPM are all relative, its folder tells whose it is.
	ours := func() bool {
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		return err == nil && dir == m.Folder && hasArg(pid, "swtpm")
	}
	if pid == 0 || !ours() {
		return nil
	}
	p, err := openProcess(pid, ours, m.Name)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	soon, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if p.wait(soon) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := p.kill(); err != nil {
		return err
	}
	return p.wait(ctx)
}
