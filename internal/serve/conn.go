package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// RunConn serves h on one connection until the client closes it, it is idle for too long, or ctx
// ends; an answer that runs then has the grace time to finish.
func RunConn(ctx context.Context, c net.Conn, h http.Handler, opts Options) error {
	opts = opts.withDefaults()
	l := &single{conn: c, closed: make(chan struct{})}
	s := newServer(h, opts)
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			l.Close() // with its only connection the listener ends
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Grace)
	defer cancel()
	if err := s.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("stop serving: %w", err), s.Close())
	}
	return nil
}

// single is a listener with one connection.
type single struct {
	mu     sync.Mutex
	conn   net.Conn // nil when it was taken
	once   sync.Once
	closed chan struct{}
}

func (l *single) Accept() (net.Conn, error) {
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	l.mu.Unlock()
	if c != nil {
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *single) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is asked for by http.Server, for its context.
func (l *single) Addr() net.Addr { return &net.UnixAddr{Net: "stdio"} }
