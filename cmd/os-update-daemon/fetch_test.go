package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin/origintest"
)

// lab is an update server without systemd, and an origin.
type lab struct {
	t              *testing.T
	files          map[string][]byte
	url            string
	images, config string
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, files: map[string][]byte{}, images: filepath.Join(t.TempDir(), "os-images"), config: filepath.Join(t.TempDir(), "os-update.yml")}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := l.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(b)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}))
	t.Cleanup(s.Close)
	l.url = s.URL
	return l
}

// configure names images of the origin.
func (l *lab) configure(names ...string) {
	l.t.Helper()
	text := "update:\n"
	for _, n := range names {
		text += fmt.Sprintf("- {image: %s/%s, name: %s}\n", l.url, n, n)
	}
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) fetch(args ...string) (code int, stdout, stderr string) {
	return call(append([]string{"fetch", "--config", l.config, "--images", l.images}, args...)...)
}

func TestFetch(t *testing.T) {
	l := newLab(t)
	one, two := origintest.Disk(t, "1"), origintest.Disk(t, "2")
	l.files["/a.raw"], l.files["/c.raw"] = two, one
	l.configure("a.raw", "b.raw", "c.raw")

	code, out, stderr := l.fetch()
	sum := sha256.Sum256(two)
	want := fmt.Sprintf("a.raw: fetched, version 2, 10 MiB, SHA-256 %.16s\nb.raw: failed\nc.raw: fetched, version 1, ", hex.EncodeToString(sum[:]))
	if code != int(cli.Unreachable) || !strings.HasPrefix(out, want) || !strings.Contains(stderr, "b.raw from "+l.url) || !strings.Contains(stderr, "404") {
		t.Errorf("fetch = %d, %q, %q; want 7, %q", code, out, stderr, want)
	}
	if b, err := os.ReadFile(filepath.Join(l.images, "c.raw")); err != nil || !bytes.Equal(b, one) {
		t.Errorf("the copy after one that failed: %d bytes, %v", len(b), err)
	}

	// Results on standard output, the rest on standard error; the first failure is the status.
	l.files["/b.raw"], l.files["/a.raw"] = []byte("<html>"), one
	code, out, stderr = l.fetch("--json")
	var got []string
	for line := range strings.Lines(out) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, r.Name+" "+r.Result+" "+r.Version)
	}
	if code != int(cli.Refused) || strings.Join(got, ", ") != "a.raw failed 2, b.raw failed , c.raw unchanged 1" {
		t.Errorf("fetch --json = %d, %q; want 4", code, got)
	}
	for line := range strings.Lines(stderr) {
		if !json.Valid([]byte(line)) {
			t.Errorf("standard error with --json has %q", line)
		}
	}
	l.configure("b.raw", "a.raw")
	if code, _, stderr = l.fetch(); code != int(cli.Unverified) || !strings.Contains(stderr, "hint: --allow-older takes it") {
		t.Errorf("fetch = %d, %s; want 6 and a hint", code, stderr)
	}
	l.configure("a.raw")
	if code, out, _ = l.fetch("--allow-older"); code != 0 || !strings.HasPrefix(out, "a.raw: fetched, version 1") {
		t.Errorf("fetch --allow-older = %d, %q", code, out)
	}
	if code, out, _ = l.fetch(); code != 0 || out != "a.raw: unchanged\n" {
		t.Errorf("fetch of what is there = %d, %q", code, out)
	}
	l.configure()
	if code, out, stderr = l.fetch(); code != 0 || out != "" || !strings.Contains(stderr, "names no images") {
		t.Errorf("fetch of nothing = %d, %q, %q", code, out, stderr)
	}
}

// TestImage is the form that the system had which this one replaces.
func TestImage(t *testing.T) {
	l := newLab(t)
	l.files["/a.raw"] = origintest.Disk(t, "1")
	l.configure("a.raw")
	image := filepath.Join(l.images, "a.raw")
	oneshot := func() (int, string, string) {
		return call("--image", image, "--oneshot", "--config", l.config)
	}
	if code, out, stderr := oneshot(); code != 0 || !strings.HasPrefix(out, "a.raw: fetched") {
		t.Errorf("--image = %d, %q, %q", code, out, stderr)
	}
	for _, suffix := range []string{"", ".dev", ".firmware", ".sha"} {
		if _, err := os.Stat(image + suffix); err != nil {
			t.Error(err)
		}
	}
	lock, err := os.Open(filepath.Join(l.images, ".work", "a.raw", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := oneshot(); code != int(cli.Locked) {
		t.Errorf("--image while another is at work = %d, %q; want 5", code, stderr)
	}
	lock.Close()
	image = filepath.Join(l.images, "b.raw")
	if code, _, stderr := oneshot(); code != int(cli.Failure) || !strings.Contains(stderr, "does not name it") {
		t.Errorf("--image of what is not configured = %d, %q", code, stderr)
	}
}

// TestImageAgain lets it run, through an origin that is away, until it is ended.
func TestImageAgain(t *testing.T) {
	l := newLab(t)
	l.configure("a.raw")
	settings := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(settings, []byte("OS_CHECK_INTERVAL=1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, stderr lockedBuffer
	env := &cli.Env{Stdout: &out, Stderr: &stderr, Args: []string{"--image", filepath.Join(l.images, "a.raw"), "--config", l.config, "--settings", settings}}
	done := make(chan error, 1)
	go func() { done <- Main(ctx, env) }()
	for deadline := time.Now().Add(time.Minute); strings.Count(out.String(), "a.raw: failed\n") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no second attempt: %q, %q", out.String(), stderr.String())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
	if !strings.Contains(stderr.String(), "os-update-daemon: update a.raw from ") {
		t.Errorf("it does not say what went wrong: %q", stderr.String())
	}
}
