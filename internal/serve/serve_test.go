package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/serve"
)

const blob = "targets/eos/qemu/1/ab.blob"

// repo makes a folder with the files of a repository and some others.
func repo(t *testing.T) (dir string, data []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	data = chunktest.Data(1, 3<<20)
	for name, content := range map[string][]byte{
		blob: data, "metadata/timestamp.json": []byte("{}"), "metadata/1.root.json": []byte("{}"),
		"metadata/.eos-new-1": []byte("half"), "metadata/notes.txt": []byte("x"), "metadata/sub/a.json": []byte("x"),
		".lock": nil, "index.html": []byte("x"), "targets/.hidden/x": []byte("x"), "../secret.json": []byte("secret"),
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"metadata/out.json": "../../secret.json", "metadata/abs.json": "/etc/passwd",
		"metadata/in.json": "timestamp.json", "targets/loop": "loop", "targets/up": "../..",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, data
}

// start serves dir and returns its address and a function that stops it.
func start(t *testing.T, dir string, log *slog.Logger, opts serve.Options) (address string, stop func() error) {
	t.Helper()
	h, err := serve.New(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.Run(ctx, l, h, opts) }()
	stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		h.Close()
		return err
	})
	t.Cleanup(func() { stop() })
	return l.Addr().String(), stop
}

// raw sends a request as it is and returns the answer.
func raw(t *testing.T, address, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("answer to %.60q: %v", request, err)
	}
	return res
}

func TestVisible(t *testing.T) {
	dir, _ := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	for _, test := range []struct {
		request string
		status  int
	}{
		{"GET /metadata/timestamp.json", 200},
		{"GET /metadata/1.root.json", 200},
		{"HEAD /metadata/1.root.json", 200},
		{"GET /metadata/in.json", 200},
		{"GET /" + blob, 200},
		{"GET /" + blob + "?x=y", 200},
		{"GET /%6detadata/timestamp.json", 200},
		{"GET /", 404},
		{"GET /index.html", 404},
		{"GET /.lock", 404},
		{"GET /metadata", 404},
		{"GET /metadata/", 404},
		{"GET /metadata/2.root.json", 404},
		{"GET /metadata/notes.txt", 404},
		{"GET /metadata/sub/a.json", 404},
		{"GET /metadata/.eos-new-1", 404},
		{"GET /metadata/out.json", 404},
		{"GET /metadata/abs.json", 404},
		{"GET /targets", 404},
		{"GET /targets/", 404},
		{"GET /targets/eos", 404},
		{"GET /targets/.hidden/x", 404},
		{"GET /targets/loop", 404},
		{"GET /targets/up/secret.json", 404},
		{"GET /targets/eos/qemu/1/ab.blob/x", 404},
		{"GET /targets/../metadata/timestamp.json", 404},
		{"GET /targets/../../secret.json", 404},
		{"GET /targets/%2e%2e/%2e%2e/secret.json", 404},
		{"GET /targets/..%2f..%2fsecret.json", 404},
		{"GET /targets//eos/qemu/1/ab.blob", 404},
		{"GET //" + blob, 404},
		{"GET /targets/a\\b", 404},
		{"GET /targets/a%00b", 404},
		{"GET /targets/" + strings.Repeat("a/", 600) + "a", 404},
		{"GET *", 404},
		{"POST /metadata/timestamp.json", 405},
		{"PUT /metadata/timestamp.json", 405},
		{"DELETE /" + blob, 405},
		{"PROPFIND /", 405},
	} {
		res := raw(t, address, test.request+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if res.StatusCode != test.status {
			t.Errorf("%.60s = %d, want %d", test.request, res.StatusCode, test.status)
		}
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != 200 && bytes.Contains(body, []byte("secret")) {
			t.Errorf("%s gave the secret away", test.request)
		}
	}
}

func TestRanges(t *testing.T) {
	dir, data := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	size := len(data)
	for _, test := range []struct {
		header      string
		status      int
		first, last int
	}{
		{"", 200, 0, size - 1},
		{"bytes=0-0", 206, 0, 0},
		{"bytes=100-70099", 206, 100, 70099},
		{"bytes=3000000-", 206, 3000000, size - 1},
		{"bytes=-10", 206, size - 10, size - 1},
		{fmt.Sprintf("bytes=10-%d", size+5), 206, 10, size - 1},
		{fmt.Sprintf("bytes=%d-", size), 416, 0, 0},
		{"bytes=5-4", 416, 0, 0},
		{"lines=1-2", 416, 0, 0},
	} {
		req, err := http.NewRequest("GET", "http://"+address+"/"+blob, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.header != "" {
			req.Header.Set("Range", test.header)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != test.status || err != nil {
			t.Errorf("range %q = %d, %v; want %d", test.header, res.StatusCode, err, test.status)
			continue
		}
		if test.status == 416 {
			continue
		}
		if !bytes.Equal(body, data[test.first:test.last+1]) {
			t.Errorf("range %q gave %d bytes that are not %d to %d", test.header, len(body), test.first, test.last)
		}
		want := fmt.Sprintf("bytes %d-%d/%d", test.first, test.last, size)
		if got := res.Header.Get("Content-Range"); test.status == 206 && got != want {
			t.Errorf("range %q: Content-Range %q, want %q", test.header, got, want)
		}
	}
}

func TestCaching(t *testing.T) {
	dir, _ := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	get := func(name, etag string) *http.Response {
		t.Helper()
		req, err := http.NewRequest("GET", "http://"+address+"/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if etag != "" {
			req.Header.Set("If-None-Match", etag)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	const name = "metadata/timestamp.json"
	first := get(name, "")
	tag := first.Header.Get("ETag")
	if tag == "" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("timestamp: ETag %q, Cache-Control %q; want some, no-cache", tag, first.Header.Get("Cache-Control"))
	}
	if got := get(name, tag).StatusCode; got != 304 {
		t.Errorf("timestamp again = %d, want 304", got)
	}
	if got := get(blob, "").Header.Get("Cache-Control"); !strings.Contains(got, "immutable") {
		t.Errorf("blob: Cache-Control %q, want immutable", got)
	}
	if got := get("metadata/9.root.json", "").Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("missing root: Cache-Control %q, want no-store", got)
	}
	// Another content of the same size and time.
	p := filepath.Join(dir, name)
	info, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p+".new", []byte("[]"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p+".new", info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".new", p); err != nil {
		t.Fatal(err)
	}
	// What was seen of a file holds for some milliseconds.
	for deadline := time.Now().Add(10 * time.Second); ; {
		switch got := get(name, tag).StatusCode; {
		case got == 200:
			return
		case got != 304 || time.Now().After(deadline):
			t.Fatalf("timestamp after it was replaced = %d, want 200", got)
		}
	}
}

// TestReplacedInFlight replaces a file while it is sent.
func TestReplacedInFlight(t *testing.T) {
	dir, data := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	res, err := http.Get("http://" + address + "/" + blob)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p := filepath.Join(dir, blob)
	if err := os.WriteFile(p+".new", []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p+".new", p); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("reader in flight got %d bytes, %v; want the old file", len(got), err)
	}
}

// TestGracefulStop stops the server while a slow reader is half-way.
func TestGracefulStop(t *testing.T) {
	dir, data := repo(t)
	if err := os.WriteFile(filepath.Join(dir, blob), bytes.Repeat(data, 8), 0o644); err != nil {
		t.Fatal(err)
	}
	address, stop := start(t, dir, nil, serve.Options{})
	res, err := http.Get("http://" + address + "/" + blob)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// Once new connections are refused, the server is stopping.
	for {
		c, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-stopped:
		t.Fatalf("Run = %v while an answer was running", err)
	default:
	}
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(8*len(data)) {
		t.Errorf("reader in flight got %d bytes, %v; want %d", n, err, 8*len(data))
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run = %v, want no error", err)
	}

	// One that never reads on is given up after the grace time.
	address, stop = start(t, dir, nil, serve.Options{Grace: 50 * time.Millisecond})
	res, err = http.Get("http://" + address + "/" + blob)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := stop(); err == nil {
		t.Error("Run with a reader that never ends = no error")
	}
}

func TestMaxConns(t *testing.T) {
	dir, _ := repo(t)
	address, _ := start(t, dir, nil, serve.Options{MaxConns: 1})
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET /metadata/timestamp.json HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	second, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if err := ask(second); err == nil {
		t.Error("second connection was served beside the first")
	}
	first.Close()
	second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := http.ReadResponse(bufio.NewReader(second), nil); err != nil {
		t.Errorf("second connection after the first was closed: %v", err)
	}
}

func TestHeaderLimit(t *testing.T) {
	dir, _ := repo(t)
	address, _ := start(t, dir, nil, serve.Options{})
	res := raw(t, address, "GET /metadata/timestamp.json HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("huge header = %d, want %d", res.StatusCode, http.StatusRequestHeaderFieldsTooLarge)
	}
}

func TestAccessLog(t *testing.T) {
	dir, _ := repo(t)
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	address, stop := start(t, dir, log, serve.Options{})
	raw(t, address, "GET /"+blob+" HTTP/1.1\r\nHost: x\r\nRange: bytes=5-9\r\nUser-Agent: test\r\nConnection: close\r\n\r\n")
	raw(t, address, "GET /metadata/out.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("log has %d lines, want 2:\n%s", len(lines), out.String())
	}
	var first, second map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(lines[1]), &second); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"method": "GET", "path": "/" + blob, "status": 206.0, "bytes": 5.0, "range": "bytes=5-9", "agent": "test",
	} {
		if first[k] != want {
			t.Errorf("log: %s is %v, want %v", k, first[k], want)
		}
	}
	if second["status"] != 404.0 || second["error"] == nil {
		t.Errorf("log of a refused request: %s", lines[1])
	}
}

func TestNew(t *testing.T) {
	if _, err := serve.New(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("New(no folder) = no error")
	}
}
