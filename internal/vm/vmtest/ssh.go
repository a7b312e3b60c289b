package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Lost is the exit code of a command whose connection ended before the command did: the
// guest has restarted or was cut off.
const Lost = -1

// sshTime bounds one command.
const sshTime = 10 * time.Minute

// Result is how a command in the guest ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// sshConn is a connection that is kept between commands.
type sshConn struct {
	client *ssh.Client
}

func (c *sshConn) close() {
	if c.client != nil {
		c.client.Close()
		c.client = nil
	}
}

// SSH runs a command in the guest's shell and returns what it wrote to standard output and
// standard error, and its exit code or [Lost]. It waits for a guest that is still booting.
func (v *VM) SSH(t testing.TB, command string) (out string, code int) {
	t.Helper()
	r := v.Run(t, command, nil)
	return r.Stdout + r.Stderr, r.Code
}

// MustSSH is [VM.SSH] for a command that has to succeed. It returns standard output without
// the newline at its end.
func (v *VM) MustSSH(t testing.TB, command string) string {
	t.Helper()
	r := v.Run(t, command, nil)
	if r.Code != 0 {
		t.Fatalf("%s: exit code %d, printed %s%s", command, r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Run runs a command with stdin (nil: empty) and tells its output apart.
func (v *VM) Run(t testing.TB, command string, stdin io.Reader) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Slow(sshTime))
	defer cancel()
	r, err := v.TryRun(ctx, command, stdin)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return r
}

// TryRun is [VM.Run] for tests that expect trouble. The error is about connecting and about
// the context; a connection that breaks later is [Lost].
func (v *VM) TryRun(ctx context.Context, command string, stdin io.Reader) (Result, error) {
	session, err := v.session(ctx)
	if err != nil {
		return Result{}, err
	}
	defer session.Close()
	defer context.AfterFunc(ctx, v.ssh.close)()
	defer keepAlive(v.ssh.client)()
	var out, complaint bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &out, &complaint
	err = session.Run(command)
	r := Result{Stdout: out.String(), Stderr: complaint.String()}
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil:
		v.ssh.close()
		return r, fmt.Errorf("run in guest: %w after printing %s%s", context.Cause(ctx), r.Stdout, r.Stderr)
	case errors.As(err, &exit):
		r.Code = exit.ExitStatus()
	case err != nil:
		v.ssh.close()
		r.Code = Lost
	}
	return r, nil
}

// aliveTime is how long a guest may leave us without any answer before it counts as gone.
const aliveTime = 40 * time.Second

// keepAlive makes a connection notice that the guest behind it has restarted. QEMU's network
// holds the connection open meanwhile, and an idle one would wait for ever.
func keepAlive(c *ssh.Client) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				gone := time.AfterFunc(Slow(aliveTime), func() { c.Close() })
				_, _, err := c.SendRequest("keepalive@eos", true, nil)
				gone.Stop()
				if err != nil {
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// session opens a session on the connection there is, or on a new one.
func (v *VM) session(ctx context.Context) (*ssh.Session, error) {
	if v.ssh.client != nil {
		if s, err := newSession(v.ssh.client); err == nil {
			return s, nil
		}
		v.ssh.close()
	}
	key, err := v.key()
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := v.AwaitSSH(ctx); err != nil {
			return nil, err
		}
		client, err := v.dial(ctx, &ssh.ClientConfig{
			User:            cmpOr(v.config.User, "root"),
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // made anew in each boot
		})
		if err == nil {
			var s *ssh.Session
			if s, err = newSession(client); err == nil {
				v.ssh.client = client
				return s, nil
			}
			client.Close()
		}
		// While booting, pam_nologin and the like turn people away.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("log in: %w (%w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// dial logs in. A guest that configures its network or goes down meanwhile leaves the
// connection open and silent, so all of it is bounded, not only the connecting.
func (v *VM) dial(ctx context.Context, c *ssh.ClientConfig) (*ssh.Client, error) {
	addr := fmt.Sprintf("127.0.0.1:%d", v.SSHPort)
	limit, cancel := context.WithTimeout(ctx, Slow(aliveTime))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(limit, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(limit, func() { conn.Close() })
	link, channels, requests, err := ssh.NewClientConn(conn, addr, c)
	if !stop() && err == nil {
		err = context.Cause(limit)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(link, channels, requests), nil
}

// newSession does not wait for ever for a guest that is gone.
func newSession(c *ssh.Client) (*ssh.Session, error) {
	timer := time.AfterFunc(Slow(20*time.Second), func() { c.Close() })
	defer timer.Stop()
	return c.NewSession()
}

// key returns the private key that lets us into development images.
func (v *VM) key() (ssh.Signer, error) {
	path := v.config.Key
	if path == "" {
		keys := os.Getenv("EOS_KEYS")
		if keys == "" {
			config, err := os.UserConfigDir()
			if err != nil {
				return nil, fmt.Errorf("find keys folder: %w", err)
			}
			keys = filepath.Join(config, "eos", "keys")
		}
		path = filepath.Join(keys, "ssh_ed25519")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("log in: parse %s: %w", path, err)
	}
	return key, nil
}

// Upload writes a file in the guest.
func (v *VM) Upload(t testing.TB, local, remote string) {
	t.Helper()
	f, err := os.Open(local)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	quoted := "'" + strings.ReplaceAll(remote, "'", `'\''`) + "'"
	if r := v.Run(t, "cat >"+quoted, f); r.Code != 0 {
		t.Fatalf("upload %s: exit code %d: %s", remote, r.Code, r.Stderr)
	}
}

// WaitBoot waits until ssh lets us in, and takes note which boot of the guest that is.
func (v *VM) WaitBoot(t testing.TB) {
	t.Helper()
	v.awaitBoot(t, 5*time.Minute, "")
}

// WaitReboot waits until ssh lets us into another boot of the guest than the one that
// [VM.WaitBoot] or WaitReboot saw last: after a kexec, a reset or a reboot.
func (v *VM) WaitReboot(t testing.TB, limit time.Duration) {
	t.Helper()
	v.awaitBoot(t, limit, v.bootID)
}

func (v *VM) awaitBoot(t testing.TB, limit time.Duration, not string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Slow(limit))
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		// Each try has a limit of its own, as a guest on its way down may not answer.
		try, stop := context.WithTimeout(ctx, Slow(time.Minute))
		r, err := v.TryRun(try, "cat /proc/sys/kernel/random/boot_id", nil)
		stop()
		if id := strings.TrimSpace(r.Stdout); err == nil && r.Code == 0 && id != not {
			v.bootID = id
			return
		}
		if !v.Running() {
			t.Fatal("wait for boot: the machine has ended")
		}
		select {
		case <-ctx.Done():
			t.Fatalf("wait for boot: not within %v: %v", Slow(limit), err)
		case <-tick.C:
		}
	}
}
