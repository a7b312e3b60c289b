package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sshServe is the command by which a server is asked for HTTP over the connection. A key that is
// restricted to it gets it whatever is asked for.
const sshServe = "os-update-restricted"

// sshHTTP returns a client whose connections are ssh processes.
func sshHTTP(s Server, pkey string) *http.Client {
	argv := append(sshOptions(s, pkey), "--", s.SSH, sshServe)
	return &http.Client{Transport: &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return dialSSH(argv) },
		MaxConnsPerHost:        Parallel + 1, // a login each
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}}
}

// dialSSH starts ssh with one end of a pair of sockets as its standard input and output, and
// returns the other end. Closing it ends the process.
func dialSSH(argv []string) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ssh"), os.NewFile(uintptr(fds[1]), "ssh")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	c := &sshConn{Conn: conn, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, &c.said
	if err := c.cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// sshConn is a connection over an ssh process.
type sshConn struct {
	net.Conn
	cmd   *exec.Cmd
	said  tail
	ended chan struct{}
	err   error // of the process, once ended is closed
}

// Read says why ssh ended, instead of just that it did.
func (c *sshConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.why(err)
}

// Write does the same: who writes first may see it first.
func (c *sshConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.why(err)
}

// why puts ssh's own words in the place of an error that says that the other end is gone. It
// is gone with a reset where ssh ended before it had read everything.
func (c *sshConn) why(err error) error {
	if err != io.EOF && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		return err
	}
	select {
	case <-c.ended:
	case <-time.After(5 * time.Second): // it has closed its output and lingers
		return err
	}
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		return &sshError{status: exit.ExitCode(), said: c.said.String()}
	}
	return err
}

// Close ends ssh.
func (c *sshConn) Close() error {
	err := c.Conn.Close()
	_ = c.cmd.Process.Kill() // has ended already, or has nothing more to do
	<-c.ended
	return err
}

// sshError is an end of ssh that is none of ours.
type sshError struct {
	status int // ssh's own trouble is 255, everything else is of the remote command
	said   string
}

func (e *sshError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("ssh ended with status %d", e.status)
	}
	return fmt.Sprintf("ssh ended with status %d: %s", e.status, e.said)
}

// Permanent says that asking again would not help, and that the server may hold it against us: it
// does not know our key, we do not know its, or it does not do what we ask.
func (e *sshError) Permanent() bool {
	for _, s := range []string{"Permission denied", "Host key verification failed", "REMOTE HOST IDENTIFICATION", "Identity file", "invalid format"} {
		if strings.Contains(e.said, s) {
			return true
		}
	}
	return e.status != 255
}

// hint says what to do about it.
func (e *sshError) hint() string {
	switch {
	case e.status != 255:
		return "the server needs os-update-restricted, and a repository; os-update --read works with servers that have only image files"
	case e.Permanent():
		return "the server's host key must be in /etc/ssh/ssh_known_hosts, and pkey (--pkey) must name a key that the server knows"
	}
	return ""
}

// sshHint says what to do about an error of ssh.
func sshHint(err error) string {
	var e *sshError
	if errors.As(err, &e) {
		return e.hint()
	}
	return ""
}

// tail keeps the end of what a process says, on one line.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxSaid = 1024

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > maxSaid {
		t.b = bytes.Clone(t.b[len(t.b)-maxSaid:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.b)), " ")
}
