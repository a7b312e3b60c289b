package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/cli"
)

// lockedBuffer is written by a server and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestServe runs the program, asks it what devices, monitoring and load balancers ask, and ends it.
func TestServe(t *testing.T) {
	repo := t.TempDir()
	if err := os.MkdirAll(filepath.Join(repo, "metadata"), 0o755); err != nil {
		t.Fatal(err)
	}
	timestamp := `{"signed":{"expires":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}}`
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log lockedBuffer
	env := &cli.Env{
		Stdout: io.Discard, Stderr: &log, Getenv: func(string) string { return "" },
		Args: []string{"serve", "--repo", repo, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--json"},
	}
	done := make(chan error, 1)
	go func() { done <- Main(ctx, env) }()
	url := func(message string) string {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			for line := range strings.Lines(log.String()) {
				var l struct{ Msg, URL string }
				if json.Unmarshal([]byte(line), &l) == nil && l.Msg == message {
					return l.URL
				}
			}
			select {
			case err := <-done:
				t.Fatalf("it ended: %v\n%s", err, log.String())
			default:
			}
		}
		t.Fatalf("no message %q:\n%s", message, log.String())
		return ""
	}
	public, metrics := strings.TrimSuffix(url("serving"), "/"), url("metrics")
	get := func(url string) (int, string) {
		t.Helper()
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if status, text := get(public + "/healthz"); status != 503 || !strings.Contains(text, "no such file") {
		t.Errorf("health of an empty repository: %d %s", status, text)
	}
	if err := os.WriteFile(filepath.Join(repo, "metadata/timestamp.json"), []byte(timestamp), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, text := get(public + "/metadata/timestamp.json"); status != 200 || text != timestamp {
		t.Errorf("timestamp.json: %d %s", status, text)
	}
	for _, u := range []string{public + "/healthz", strings.Replace(metrics, "/metrics", "/healthz", 1)} {
		if status, text := get(u); status != 200 || !strings.Contains(text, `"ok":true`) {
			t.Errorf("%s: %d %s", u, status, text)
		}
	}
	if status, text := get(metrics); status != 200 || !strings.Contains(text, `eos_serve_requests_total{file="metadata",status="200"} 1`) {
		t.Errorf("metrics: %d %s", status, text)
	}
	if status, _ := get(public + "/metrics"); status != 404 {
		t.Errorf("metrics for everybody: %d, want 404", status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
	if !strings.Contains(log.String(), `"devices cannot use this repository yet"`) || !strings.Contains(log.String(), `"msg":"stopped"`) {
		t.Errorf("log:\n%s", log.String())
	}
}
