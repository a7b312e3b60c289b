package restricted

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// conn makes one connection of standard input and output.
type conn struct {
	in, out *os.File
	once    sync.Once
	err     error
}

func newConn(in, out *os.File) *conn { return &conn{in: in, out: out} }

// Read returns errors as a network's: http.Server says nothing to a client that is silent for
// too long, but answers other errors as if they were requests.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	if err != nil && err != io.EOF {
		err = &net.OpError{Op: "read", Net: stdio{}.Network(), Err: err}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) { return c.out.Write(b) }

func (c *conn) Close() error {
	c.once.Do(func() { c.err = errors.Join(c.in.Close(), c.out.Close()) })
	return c.err
}

func (c *conn) LocalAddr() net.Addr  { return stdio{} }
func (c *conn) RemoteAddr() net.Addr { return stdio{} }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Deadlines work where sshd hands over sockets or pipes, which it does. Elsewhere, as with a
// file in a test, there are none.
func (c *conn) SetReadDeadline(t time.Time) error  { return unsupported(c.in.SetReadDeadline(t)) }
func (c *conn) SetWriteDeadline(t time.Time) error { return unsupported(c.out.SetWriteDeadline(t)) }

func unsupported(err error) error {
	if errors.Is(err, os.ErrNoDeadline) {
		return nil
	}
	return err
}

// stdio is the address of both ends: who is there, sshd knows.
type stdio struct{}

func (stdio) Network() string { return "stdio" }
func (stdio) String() string  { return "ssh" }
