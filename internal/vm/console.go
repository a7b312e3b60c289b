package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/term"
)

// Escape is the key that leaves the console: Ctrl-].
const Escape = 0x1d

// Attach joins a console with a terminal, or with any reader and writer, until the machine
// closes it (left is false), the person at the keyboard leaves it with [Escape] (left is
// true) or the context ends. If in is a terminal, it passes on every key, Ctrl-C too, until
// Attach returns. The end of in is not the end of the console. Attach leaves conn open; a
// read from in may still be under way when it returns.
func Attach(ctx context.Context, conn net.Conn, in io.Reader, out io.Writer) (left bool, err error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return false, err
		}
		defer term.Restore(int(f.Fd()), old)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, conn)
		ended <- err
	}()
	typed := make(chan error, 1)
	go func() { typed <- forward(conn, in) }()
	for {
		select {
		case err := <-ended:
			return false, err
		case err := <-typed:
			if errors.Is(err, errLeft) {
				return true, nil
			}
			// Nothing more to type, or the machine is gone, which the other side tells.
			typed = nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// errLeft says that the escape key was pressed.
var errLeft = errors.New("left the console")

// forward copies keys until the escape key, which and whose followers it keeps back.
func forward(w io.Writer, r io.Reader) error {
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		keys, _, escaped := bytes.Cut(buf[:n], []byte{Escape})
		if len(keys) > 0 {
			if _, err := w.Write(keys); err != nil {
				return err
			}
		}
		if escaped {
			return errLeft
		}
		if err != nil {
			return err
		}
	}
}

// Tail returns the last lines of what the machine wrote to its serial console.
func (m *Machine) Tail(lines int) ([]byte, error) {
	f, err := os.Open(m.SerialLog())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return tail(f, lines)
}

// tail returns the last lines of a file, looking at no more than its last 64 KiB.
func tail(f *os.File, lines int) ([]byte, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, fi.Size()-64<<10)
	b, err := io.ReadAll(io.NewSectionReader(f, from, fi.Size()-from))
	if err != nil {
		return nil, err
	}
	at := len(b)
	if bytes.HasSuffix(b, []byte("\n")) {
		at--
	}
	for range lines {
		i := bytes.LastIndexByte(b[:max(at, 0)], '\n')
		if i < 0 {
			return b, nil
		}
		at = i
	}
	return b[at+1:], nil
}
