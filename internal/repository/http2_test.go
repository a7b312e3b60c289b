package repository

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// tlsServer is a server with HTTP/2, and the client's settings for it.
func tlsServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	authorities := x509.NewCertPool()
	authorities.AddCert(s.Certificate())
	return s, &tls.Config{RootCAs: authorities}
}

// link relays connections to address. The first one dies without a word, in both directions, after
// so many bytes of answers: nobody is told.
func link(t *testing.T, address string, after int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.Close()
		}
	})
	go func() {
		for first := true; ; first = false {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", address)
			if err != nil {
				c.Close()
				continue
			}
			mu.Lock()
			open = append(open, c, s)
			mu.Unlock()
			dead := make(chan struct{})
			go func() {
				if !first {
					_, _ = io.Copy(c, s)
					c.Close()
					return
				}
				_, _ = io.CopyN(c, s, after)
				close(dead)
			}()
			go func() {
				_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
					select {
					case <-dead:
						return len(b), nil // lost
					default:
						return s.Write(b)
					}
				}), c)
				s.Close()
			}()
		}
	}()
	return l.Addr().String()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestLinkDiesSilently: with HTTP/2 all requests share a connection. When it dies without a word, new
// requests must not be sent into it until nobody wants to try any more.
func TestLinkDiesSilently(t *testing.T) {
	image := chunktest.Data(35, 400_000)
	server, config := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked over %s, want HTTP/2", r.Proto)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
	})
	_, img := blobServer(t, image, nil)
	c := &Client{
		BaseURL: "https://" + link(t, strings.TrimPrefix(server.URL, "https://"), 150_000), TLS: config,
		Retries: 3, Wait: time.Millisecond, Stall: 400 * time.Millisecond,
	}
	r, err := c.Fetcher(img).Fetch(t.Context(), 0, 400_000)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, image) {
		t.Errorf("over a link that died once: %d bytes, %v; want the blob", len(got), err)
	}
}

// TestUnreadIsBounded opens a range and does not read it: no more than a bounded part of it is sent.
func TestUnreadIsBounded(t *testing.T) {
	image := make([]byte, 16<<20)
	sent := make(chan int, 1)
	server, config := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-16777215/16777216")
		w.Header().Set("Content-Length", "16777216")
		w.WriteHeader(http.StatusPartialContent)
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Error(err)
		}
		n := 0
		for n < len(image) {
			m, err := w.Write(image[n : n+16<<10])
			if n += m; err != nil {
				break
			}
		}
		sent <- n
	})
	_, img := blobServer(t, image, nil)
	c := &Client{BaseURL: server.URL, TLS: config}
	r, err := c.Fetcher(img).Fetch(t.Context(), 0, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if n := <-sent; n > streamBuffer+1<<20 {
		t.Errorf("the server sent %d bytes that nobody has read, want about %d at most", n, streamBuffer)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestSequential: a limit on the rate would be passed by what waits in buffers, so ranges are then
// fetched one by one.
func TestSequential(t *testing.T) {
	c, img := blobServer(t, nil, nil)
	if c.Fetcher(img).Sequential() {
		t.Error("Sequential() without a limit = true")
	}
	c.LimitRate = 1000
	if !c.Fetcher(img).Sequential() {
		t.Error("Sequential() with a limit = false")
	}
}
