package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A socket's address holds about a hundred bytes and a folder's path may be longer, so
// sockets are reached through a handle on their folder.

// dial connects to a socket in the folder.
func dial(ctx context.Context, folder, name string) (net.Conn, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(folder, name), plain(err))
	}
	return conn, nil
}

// listen makes a socket in the folder in place of what had that name.
func listen(folder, name string) (*net.UnixListener, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(filepath.Join(folder, name)); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	addr := &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(folder, name), plain(err))
	}
	// The name means nothing once the folder's handle is closed.
	l.SetUnlinkOnClose(false)
	return l, nil
}

// plain drops the part of a network error that names the path through the handle.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// QMP connects to the machine's control socket.
func (m *Machine) QMP(ctx context.Context) (*QMP, error) {
	conn, err := dial(ctx, m.Folder, qmpSocket)
	if err != nil {
		return nil, err
	}
	return NewQMP(ctx, conn)
}

// args are the arguments of a command, step is a command with them.
type (
	args map[string]any
	step struct {
		command string
		args    any
	}
)

// tell runs commands whose answers do not matter.
func (m *Machine) tell(ctx context.Context, steps ...step) error {
	q, err := m.QMP(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	for _, s := range steps {
		if err := q.Do(ctx, s.command, s.args, nil); err != nil {
			return err
		}
	}
	return nil
}

// Console connects to the machine's serial console. Only one can be connected; the error
// says so when another one is. The log file gets everything in any case.
func (m *Machine) Console(ctx context.Context) (net.Conn, error) {
	if !m.Running() {
		return nil, fmt.Errorf("machine %s: %w", m.Name, ErrNotRunning)
	}
	f, err := os.OpenFile(m.path(consoleLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open console of %s: %w", m.Name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, hinted{fmt.Errorf("open console of %s: it is open in another terminal", m.Name), "read along in " + m.SerialLog()}
		}
		return nil, fmt.Errorf("open console of %s: %w", m.Name, err)
	}
	conn, err := dial(ctx, m.Folder, serialSocket)
	if err != nil {
		f.Close()
		return nil, err
	}
	return consoleConn{conn, f}, nil
}

// consoleConn holds the console's lock as long as it is open.
type consoleConn struct {
	net.Conn
	lock *os.File
}

func (c consoleConn) Close() error {
	defer c.lock.Close()
	return c.Conn.Close()
}

// freePort returns want if nothing listens on it, or for 0 any port that is free.
func freePort(want int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", want))
	if errors.Is(err, unix.EADDRINUSE) {
		return 0, hinted{fmt.Errorf("forward ssh: port %d is in use", want), "take another with --ssh-port, 0 for any that is free"}
	}
	if err != nil {
		return 0, fmt.Errorf("forward ssh: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
