package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options of [Run]. Zero fields take the defaults.
type Options struct {
	MaxConns int           // connections at a time; default 1024
	Grace    time.Duration // for answers that run when the context ends; default 30 s
	TLS      *tls.Config   // see [LoadTLS]; nil: plain HTTP
	Log      *slog.Logger  // for trouble with connections; may be nil
}

// Limits on a request.
const (
	maxHeader     = 16 << 10
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
)

func (o Options) withDefaults() Options {
	if o.MaxConns <= 0 {
		o.MaxConns = 1024
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func newServer(h http.Handler, opts Options) *http.Server {
	return &http.Server{
		Handler:           http.MaxBytesHandler(h, 0),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		TLSConfig:         opts.TLS,
		ErrorLog:          slog.NewLogLogger(opts.Log.Handler(), slog.LevelWarn),
	}
}

// Run serves h on l until ctx ends. Then no new connection is accepted, and
// answers that run have the grace time to finish. It closes l. The error is
// nil when all of them did.
func Run(ctx context.Context, l net.Listener, h http.Handler, opts Options) error {
	opts = opts.withDefaults()
	s := newServer(h, opts)
	done := make(chan error, 1)
	limited := newLimited(l, opts.MaxConns)
	go func() {
		if opts.TLS == nil {
			done <- s.Serve(limited)
		} else {
			done <- s.ServeTLS(limited, "", "")
		}
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Grace)
	defer cancel()
	err := s.Shutdown(grace)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop serving: answers still running after %v: %w", opts.Grace, err), s.Close())
	}
	<-done
	return err
}

// limited is a listener with a bound on open connections. One more has to
// wait until another is closed.
type limited struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, free: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	// TCP connections keep their own type, by which files are sent.
	if tcp, ok := c.(*net.TCPConn); ok {
		return &limitedTCP{TCPConn: tcp, l: l}, nil
	}
	return &limitedConn{Conn: c, l: l}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedTCP struct {
	*net.TCPConn
	l    *limited
	once sync.Once
}

func (c *limitedTCP) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() { <-c.l.free })
	return err
}

type limitedConn struct {
	net.Conn
	l    *limited
	once sync.Once
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.l.free })
	return err
}
