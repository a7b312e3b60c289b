package serve

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKept asks for metadata that is kept: answers are those of a file, and what a publisher
// replaces, removes or writes over is noticed.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "metadata"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "metadata", "timestamp.json")
	h, err := New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ask := func(method string, header ...string) *http.Response {
		r := httptest.NewRequest(method, "/metadata/timestamp.json", nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	want := func(what string, res *http.Response, status int, body string) {
		t.Helper()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status || status < 300 && string(b) != body {
			t.Errorf("%s: %d %q, %v; want %d %q", what, res.StatusCode, b, err, status, body)
		}
	}
	replace := func(content string) {
		t.Helper()
		if err := os.WriteFile(name+".new", []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	replace("one")
	first := ask("GET")
	want("first", first, 200, "one")
	again := ask("GET")
	want("kept", again, 200, "one")
	for _, k := range []string{"Etag", "Content-Length", "Content-Type", "Last-Modified", "Cache-Control", "Accept-Ranges"} {
		if a, b := first.Header.Get(k), again.Header.Get(k); a != b || a == "" {
			t.Errorf("%s of the first answer is %q, of the next %q", k, a, b)
		}
	}
	want("HEAD", ask("HEAD"), 200, "")
	want("range", ask("GET", "Range", "bytes=1-2"), 206, "ne")
	want("not changed", ask("GET", "If-None-Match", first.Header.Get("Etag")), 304, "")
	for i := range 5 {
		content := fmt.Sprint("content ", i)
		replace(content)
		time.Sleep(2 * lookTime)
		want("replaced", ask("GET"), 200, content)
		want("and kept", ask("GET"), 200, content)
	}
	if err := os.WriteFile(name, []byte("content X"), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * lookTime)
	want("written over", ask("GET"), 200, "content X")
	replace(strings.Repeat("x", maxSmall+1))
	time.Sleep(2 * lookTime)
	want("too large to be kept", ask("GET"), 200, strings.Repeat("x", maxSmall+1))
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	want("removed", ask("GET"), 404, "")
	for i := range 3 * maxSmalls {
		file := fmt.Sprintf("metadata/%d.root.json", i+1)
		if err := os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/"+file, nil))
	}
	if n := len(h.small.files); n > maxSmalls {
		t.Errorf("%d files are kept, want %d at most", n, maxSmalls)
	}
}

// TestLogWriter passes on whole lines, soon, and all of them at the end.
func TestLogWriter(t *testing.T) {
	r, w := io.Pipe()
	l := NewLogWriter(w)
	lines := make(chan string)
	go func() {
		b := make([]byte, 1<<20)
		for {
			n, err := r.Read(b)
			if err != nil {
				close(lines)
				return
			}
			lines <- string(b[:n])
		}
	}()
	if _, err := l.Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "a line\n" {
		t.Errorf("passed on %q", got)
	}
	go func() {
		for range 10_000 {
			_, _ = l.Write([]byte("one of many lines\n"))
		}
		_ = l.Close()
		_ = w.Close()
	}()
	total := 0
	for piece := range lines {
		if !strings.HasSuffix(piece, "\n") {
			t.Errorf("a line was split: ...%q", piece[max(0, len(piece)-30):])
		}
		total += len(piece)
	}
	if want := 10_000 * len("one of many lines\n"); total != want {
		t.Errorf("%d bytes were passed on, want %d", total, want)
	}
}
