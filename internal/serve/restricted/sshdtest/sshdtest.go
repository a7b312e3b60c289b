// Package sshdtest gives tests a real sshd with one key, which can run one command.
//
// [Start] runs it, from the tools tree, on a port of the loopback device. Its one user is
// [User]; the passwd file that knows it is seen by this sshd alone.
package sshdtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// User may log in. It is not root where the test is.
const User = "fleet"

// A Server is a running sshd.
type Server struct {
	Port       string
	Key        string // private key that may log in
	Stranger   string // private key that may not
	KnownHosts string // file that has the server's key
	Dir        string // everybody may read it, unlike most folders of tests

	tree *toolstree.Tree
	log  *lockedBuffer
}

// Start runs sshd with command forced upon the key. With more configuration, the key may do
// whatever that configuration leaves open.
func Start(t testing.TB, command string, more ...string) *Server {
	t.Helper()
	tree := toolstreetest.Open(t)
	dir, err := os.MkdirTemp("", "sshd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir, tree: tree, log: &lockedBuffer{}, Port: freePort(t)}
	s.Key, s.Stranger, s.KnownHosts = s.path("key"), s.path("stranger"), s.path("known_hosts")
	for _, name := range []string{"key", "stranger", "host"} {
		toolstreetest.Output(t, tree, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", s.path(name))
	}
	uid := 4711
	if os.Geteuid() != 0 {
		uid = 0 // ourselves, in the namespace of the tools tree
	}
	s.write(t, "known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s", s.Port, s.read(t, "host.pub")))
	line := fmt.Sprintf("command=%q,restrict %s", command, s.read(t, "key.pub"))
	if len(more) > 0 {
		line = "pty,agent-forwarding,port-forwarding,user-rc " + s.read(t, "key.pub")
	}
	s.write(t, "authorized_keys", line)
	s.write(t, "passwd", fmt.Sprintf("root:x:0:0::/root:/bin/sh\nsshd:x:%d:%d::/run/sshd:/usr/sbin/nologin\n%s:x:%d:%d::%s:/bin/sh\n", uid+1, uid+1, User, uid, uid, dir))
	s.write(t, "config", strings.Join(append([]string{
		"ListenAddress 127.0.0.1", "Port " + s.Port, "HostKey " + s.path("host"), "AuthorizedKeysFile " + s.path("authorized_keys"),
		"PidFile none", "StrictModes no", "PermitRootLogin yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"PerSourcePenalties no", "MaxStartups 100", "LogLevel VERBOSE", "Subsystem sftp internal-sftp",
	}, more...), "\n")+"\n")
	run := tree.Command("sh", "-c", `mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && mount --bind "$1/passwd" /etc/passwd && exec /usr/sbin/sshd -D -e -f "$1/config"`, "sh", dir)
	c := exec.Command(run.Argv[0], run.Argv[1:]...)
	c.Stdout, c.Stderr = s.log, s.log
	c.WaitDelay = time.Second // sessions of clients that keep their connection have our pipes
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() {
		_ = c.Process.Signal(unix.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("sshd:\n%s", s.log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+s.Port); err == nil {
			conn.Close()
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("sshd ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("sshd does not listen")
		}
	}
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Server) write(t testing.TB, name, content string) {
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) read(t testing.TB, name string) string {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Client puts the real ssh first in the path of the test. Like a device it knows the hosts in
// knownHosts and no others.
func (s *Server) Client(t testing.TB, knownHosts string) {
	t.Helper()
	dir := t.TempDir()
	argv := s.tree.Command("ssh", "-F", "none", "-o", "GlobalKnownHostsFile="+knownHosts, "-o", "UserKnownHostsFile=none").Argv
	for i, a := range argv {
		argv[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	script := "#!/bin/sh\nexec " + strings.Join(argv, " ") + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Logins is how often somebody logged in.
func (s *Server) Logins() int { return strings.Count(s.log.String(), "Accepted publickey") }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
