package serve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/serve"
)

// image is what a client takes the blob of the tests for.
func image(data []byte) repository.Image {
	return repository.Image{Blob: repository.File{Path: "eos/qemu/1/blob", Length: int64(len(data)), SHA256: "ab"}}
}

// TestRestart ends the server while a device reads, without waiting for it, and starts it anew: the
// device goes on where it was, those that it has opened ahead too.
func TestRestart(t *testing.T) {
	dir, data := repo(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	run := func(l net.Listener) (stop func()) {
		h, err := serve.New(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- serve.Run(ctx, l, h, serve.Options{Grace: time.Millisecond}) }()
		return func() {
			cancel()
			<-done // the answers that ran are an error
			h.Close()
		}
	}
	stop := run(l)
	target, err := chunk.Make(t.Context(), bytes.NewReader(data), int64(len(data))-4096)
	if err != nil {
		t.Fatal(err)
	}
	dev := &chunktest.Device{Bytes: make([]byte, len(data)), CutAt: -1}
	for i, e := range target.Chunks { // so that there are many ranges
		if i%3 == 0 {
			copy(dev.Bytes[e.Offset:e.End()], data[e.Offset:])
		}
	}
	client := &repository.Client{BaseURL: "http://" + address, HTTP: &http.Client{Transport: &http.Transport{}}, Retries: 5, Wait: 20 * time.Millisecond}
	fetch := client.Fetcher(image(data))
	n := 0
	_, err = chunk.Assemble(t.Context(), dev, target, nil, fetch, chunk.Options{Parallel: 3, OnChunk: func(int64, []byte) error {
		if n++; n%10 != 0 {
			return nil
		}
		stop()
		l, err := net.Listen("tcp", address)
		if err == nil {
			stop = run(l)
		}
		return err
	}})
	if err = errors.Join(err, fetch.Close()); err != nil || !bytes.Equal(dev.Bytes, data) || n < 30 {
		t.Errorf("over %d restarts: %v", n/10, err)
	}
	stop()
}

// counted counts what goes over a connection in both directions.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// TestRequestCost measures what package chunk takes a range to cost besides its bytes.
func TestRequestCost(t *testing.T) {
	dir, data := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	var wire atomic.Int64
	client := &repository.Client{BaseURL: "http://" + address, HTTP: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return counted{c, &wire}, err
		},
	}}}
	fetch := client.Fetcher(image(data))
	const ranges, size = 20, 50_000
	for i := range int64(ranges) {
		r, err := fetch.Fetch(t.Context(), i*size, size)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || int64(len(got)) != size {
			t.Fatalf("range of %d bytes: %d, %v", size, len(got), err)
		}
		r.Close()
	}
	cost := (wire.Load() - ranges*size) / ranges
	t.Logf("a range costs %d bytes besides its own", cost)
	if cost < 200 || cost > 700 || chunk.RequestCost < cost {
		t.Errorf("a range costs %d bytes besides its own, taken are %d", cost, chunk.RequestCost)
	}
}
