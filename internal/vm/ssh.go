package vm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// SSH says how to log in to a machine.
type SSH struct {
	User       string
	Identities []string // files with private keys, tried besides those of an agent
	TTY        bool     // a terminal for a command; a login has one anyway
	Command    []string // empty: a login shell
}

// SSHArgs returns the command line of the ssh client.
//
// The guest's host key is not checked: an EOS without a registry makes a new one in each
// boot, so there is nothing to compare it with, and the connection goes to a port of this
// host behind which the machine's own QEMU listens. The caller's own configuration is left
// out, it is meant for other hosts.
func (m *Machine) SSHArgs(s SSH) []string {
	a := []string{
		"ssh", "-F", "none", "-p", strconv.Itoa(m.SSHPort),
		"-o", "HostKeyAlias=" + m.Name,
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR",
		"-o", "ConnectTimeout=30",
		"-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8",
	}
	for _, id := range s.Identities {
		a = append(a, "-i", id)
	}
	if s.TTY {
		a = append(a, "-t")
	}
	a = append(a, s.User+"@127.0.0.1")
	if len(s.Command) > 0 {
		a = append(a, "--")
	}
	return append(a, s.Command...)
}

// Identities returns the private key files to log in with: the one that eos build puts into
// development images, from the keys folder, and the usual ones of the user.
func Identities(keys, home string) []string {
	candidates := []string{filepath.Join(keys, "ssh_ed25519")}
	if home != "" {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			candidates = append(candidates, filepath.Join(home, ".ssh", name))
		}
	}
	var found []string
	for _, c := range candidates {
		if fi, err := os.Stat(c); err == nil && fi.Mode().IsRegular() {
			found = append(found, c)
		}
	}
	return found
}

// AwaitSSH returns when the machine's ssh server answers. The error says when the machine
// has ended meanwhile.
func (m *Machine) AwaitSSH(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := m.greet(ctx)
		if err == nil {
			return nil
		}
		if !m.Running() {
			return fmt.Errorf("wait for ssh of %s: %w", m.Name, ErrNotRunning)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for ssh of %s: %w (%w)", m.Name, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// greet waits for the ssh server's first words. QEMU accepts connections whether or not
// something in the guest does.
func (m *Machine) greet(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(limit, "tcp", fmt.Sprintf("127.0.0.1:%d", m.SSHPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(limit, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReaderSize(conn, 256).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read ssh greeting: %w", err)
	}
	if !strings.HasPrefix(string(line), "SSH-") {
		return fmt.Errorf("read ssh greeting: got %q", line)
	}
	return nil
}
