package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// blobServer serves image as a blob; answer, if set, may answer instead.
func blobServer(t *testing.T, image []byte, answer func(w http.ResponseWriter, r *http.Request) bool) (*Client, Image) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer != nil && answer(w, r) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
	}))
	t.Cleanup(server.Close)
	sum := sha256.Sum256(image)
	img := Image{Blob: File{Path: "eos/qemu/1/blob", Length: int64(len(image)), SHA256: hex.EncodeToString(sum[:])}}
	return &Client{BaseURL: server.URL, HTTP: server.Client(), Retries: 2, Wait: time.Millisecond, Stall: 2 * time.Second}, img
}

// ignoreRanges is a proxy that does not know ranges.
func ignoreRanges(image []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(image)))
		w.Write(image)
		return true
	}
}

// breaksOff sends at most n bytes of each answer.
func breaksOff(image []byte, n int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(&cutWriter{w, n}, r, "", time.Time{}, bytes.NewReader(image))
		return true
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		w.ResponseWriter.Write(b[:w.left])
		w.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.left -= len(b)
	return w.ResponseWriter.Write(b)
}

func TestBlobFetcher(t *testing.T) {
	for name, answer := range map[string]func(image []byte) func(http.ResponseWriter, *http.Request) bool{
		"ranges":        func([]byte) func(http.ResponseWriter, *http.Request) bool { return nil },
		"ignore ranges": ignoreRanges,
		"break off": func(image []byte) func(http.ResponseWriter, *http.Request) bool {
			return breaksOff(image, 70_000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			chunktest.Fetchers(t, func(t *testing.T, image []byte) chunk.Fetcher {
				c, img := blobServer(t, image, answer(image))
				f := c.Fetcher(img)
				t.Cleanup(func() { f.Close() })
				return f
			})
		})
	}
}

// TestBlobResume counts what a range that breaks off costs: nothing twice.
func TestBlobResume(t *testing.T) {
	image := chunktest.Data(30, 400_000)
	c, img := blobServer(t, image, breaksOff(image, 90_000))
	r, err := c.Fetcher(img).Fetch(t.Context(), 1000, 399_000)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, image[1000:]) {
		t.Fatalf("read %d bytes, %v; want the range", len(got), err)
	}
	if tr := c.Traffic(); tr.Bytes != 399_000 || tr.Requests < 5 {
		t.Errorf("Traffic = %+v, want 399000 bytes over at least 5 requests", tr)
	}
}

// TestBlobWithoutRanges counts what many ranges cost when the server sends the
// whole file for each: the file once.
func TestBlobWithoutRanges(t *testing.T) {
	image := chunktest.Data(31, 400_000)
	c, img := blobServer(t, image, ignoreRanges(image))
	f := c.Fetcher(img)
	for offset := int64(0); offset < 400_000; offset += 40_000 {
		r, err := f.Fetch(t.Context(), offset+10_000, 20_000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, image[offset+10_000:offset+30_000]) {
			t.Fatalf("range at %d: %d bytes, %v", offset, len(got), err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if tr := c.Traffic(); tr.Requests != 1 || tr.Bytes > 400_000 {
		t.Errorf("Traffic = %+v, want one request for 400000 bytes", tr)
	}
}

func TestBlobWrongAnswers(t *testing.T) {
	image := chunktest.Data(32, 100_000)
	partial := func(contentRange string, n int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if contentRange != "" {
				w.Header().Set("Content-Range", contentRange)
			}
			w.Header().Set("Content-Length", fmt.Sprint(n))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(image[:n])
			return true
		}
	}
	code := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(code); return true }
	}
	var half sync.Once
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   error
	}{
		{"no Content-Range", partial("", 50_000), ErrUntrusted},
		{"other start", partial("bytes 1-50000/100000", 50_000), ErrUntrusted},
		{"other end", partial("bytes 0-49998/100000", 49_999), ErrUntrusted},
		{"other size", partial("bytes 0-49999/100001", 50_000), ErrUntrusted},
		{"size unknown", partial("bytes 0-49999/*", 50_000), ErrUntrusted},
		{"not bytes", partial("lines 0-49999/100000", 50_000), ErrUntrusted},
		{"more than it says", partial("bytes 0-49999/100000", 50_001), ErrUntrusted},
		{"whole file of another size", func(w http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(w, "<html>"); return true }, ErrUntrusted},
		{"not satisfiable", code(416), ErrUnreachable},
		{"missing", code(404), ErrUnreachable},
		{"broken", code(500), ErrUnreachable},
		{"no content", code(204), ErrUnreachable},
		{"gone half-way", func(w http.ResponseWriter, r *http.Request) bool {
			gone := true
			half.Do(func() { gone = false })
			if gone {
				w.WriteHeader(404)
				return true
			}
			return breaksOff(image, 40_000)(w, r)
		}, ErrUnreachable},
		{"stalls half-way", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "50000")
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/100000")
			w.WriteHeader(http.StatusPartialContent)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, ErrUnreachable},
	} {
		c, img := blobServer(t, image, test.answer)
		c.Stall = 100 * time.Millisecond
		r, err := c.Fetcher(img).Fetch(t.Context(), 0, 50_000)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("Fetch(%s) = %v, want %v", test.name, err, test.want)
		}
	}
}

func TestLimitRate(t *testing.T) {
	image := chunktest.Data(33, 120_000)
	c, img := blobServer(t, image, nil)
	c.LimitRate = 200_000
	began := time.Now()
	r, err := c.Fetcher(img).Fetch(t.Context(), 0, 120_000)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, image) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	// The first burst is free.
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("120000 bytes at 200000 a second took %v", took)
	}
}

// proxy is the proxy of the environment, which is read once per process.
var proxy struct {
	sync.Mutex
	asked []string
	image []byte
}

func TestMain(m *testing.M) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.Lock()
		defer proxy.Unlock()
		proxy.asked = append(proxy.asked, r.URL.Host)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(proxy.image))
	}))
	os.Setenv("HTTP_PROXY", server.URL)
	os.Setenv("NO_PROXY", "")
	code := m.Run()
	server.Close()
	os.Exit(code)
}

func TestProxy(t *testing.T) {
	image := chunktest.Data(34, 50_000)
	proxy.image, proxy.asked = image, nil
	_, img := blobServer(t, image, nil)
	c := &Client{BaseURL: "http://repository.invalid/eos", Retries: -1}
	r, err := c.Fetcher(img).Fetch(t.Context(), 10, 20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, image[10:30]) || len(proxy.asked) != 1 || proxy.asked[0] != "repository.invalid" {
		t.Errorf("through a proxy: %d bytes, %v, proxy was asked for %v", len(got), err, proxy.asked)
	}
}
