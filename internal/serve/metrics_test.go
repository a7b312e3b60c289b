package serve_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/serve"
	"github.com/OSInside/eos/internal/serve/tlstest"
)

func newHandler(t *testing.T, dir string) *serve.Handler {
	t.Helper()
	h, err := serve.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w
}

// expire writes a timestamp that expires at a time.
func expire(t *testing.T, dir string, at time.Time) {
	t.Helper()
	text := fmt.Sprintf(`{"signatures":[],"signed":{"_type":"timestamp","expires":%q}}`, at.Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(dir, "metadata/timestamp.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestMetrics(t *testing.T) {
	dir, data := repo(t)
	h := newHandler(t, dir)
	h.Metrics = serve.NewMetrics(h)
	expire(t, dir, time.Unix(1_900_000_000, 0).UTC())
	for _, path := range []string{"/" + blob, "/metadata/timestamp.json", "/metadata/timestamp.json", "/metadata/none.json", "/etc/passwd", "/targets/x/made-up-" + strings.Repeat("y", 100)} {
		get(t, h, path)
	}
	text := get(t, h.Metrics, "/metrics").Body.String()
	for _, want := range []string{
		`eos_serve_requests_total{file="blob",status="200"} 1`,
		`eos_serve_requests_total{file="metadata",status="200"} 2`,
		`eos_serve_requests_total{file="other",status="404"} 3`,
		fmt.Sprintf(`eos_serve_sent_bytes_total{file="blob"} %v`, float64(len(data))),
		`eos_serve_request_seconds_count{file="metadata"} 2`,
		`eos_serve_requests_running 0`,
		`eos_serve_metadata_expiry_timestamp_seconds 1.9e+09`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s:\n%s", want, text)
		}
	}
	if strings.Contains(text, "made-up") || strings.Contains(text, "passwd") {
		t.Errorf("paths that somebody made up are in the metrics:\n%s", text)
	}
}

func TestHealth(t *testing.T) {
	dir, _ := repo(t)
	now := time.Unix(1_900_000_000, 0).UTC()
	health := serve.Health{Handler: newHandler(t, dir), Now: func() time.Time { return now }}
	check := func(when string, status int, text string) {
		t.Helper()
		w := get(t, health, "/healthz")
		if w.Code != status || !strings.Contains(w.Body.String(), text) || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s, want %d, %s", when, w.Code, w.Body, status, text)
		}
	}
	expire(t, dir, now.Add(time.Hour))
	check("fresh", 200, `{"ok":true,"expires":"2030-03-17T18:46:40Z"}`)
	expire(t, dir, now)
	check("expired", 503, serve.ErrExpired.Error())
	timestamp := filepath.Join(dir, "metadata/timestamp.json")
	if err := os.WriteFile(timestamp, []byte("<html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	check("garbage", 503, "timestamp.json")
	if err := os.Remove(timestamp); err != nil {
		t.Fatal(err)
	}
	check("gone", 503, "no such file")
}

// TestTLS serves over TLS, goes on with a certificate that was renewed in place, and turns away
// clients without one where clients need one.
func TestTLS(t *testing.T) {
	dir, data := repo(t)
	pki := tlstest.New(t, time.Now())
	start := func(clientCA string) string {
		t.Helper()
		config, err := serve.LoadTLS(pki.Server.Cert, pki.Server.Key, clientCA)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- serve.Run(ctx, l, newHandler(t, dir), serve.Options{TLS: config}) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return "https://" + l.Addr().String() + "/" + blob
	}
	b, err := os.ReadFile(pki.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b)
	ask := func(url string, certs ...tls.Certificate) (serial int64, err error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err == nil && len(body) != len(data) {
			err = fmt.Errorf("%d bytes", len(body))
		}
		return res.TLS.PeerCertificates[0].SerialNumber.Int64(), err
	}
	url := start("")
	first, err := ask(url)
	if err != nil {
		t.Fatal(err)
	}
	// Half of a renewal leaves the old one in use.
	next := pki.Issue("next")
	if err := os.Rename(next.Cert, pki.Server.Cert); err != nil {
		t.Fatal(err)
	}
	if serial, err := ask(url); err != nil || serial != first {
		t.Errorf("in the middle of a renewal: certificate %d, %v; want %d", serial, err, first)
	}
	if err := os.Rename(next.Key, pki.Server.Key); err != nil {
		t.Fatal(err)
	}
	if serial, err := ask(url); err != nil || serial == first {
		t.Errorf("after a renewal: certificate %d, %v; want a new one", serial, err)
	}

	url = start(pki.CA)
	if _, err := ask(url); err == nil {
		t.Error("a client without a certificate was served")
	}
	device, err := tls.LoadX509KeyPair(pki.Device.Cert, pki.Device.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(url, device); err != nil {
		t.Errorf("a client with a certificate: %v", err)
	}
	for _, files := range [][3]string{{"none", pki.Server.Key, ""}, {pki.Server.Cert, pki.Device.Key, ""}, {pki.Server.Cert, pki.Server.Key, "none"}, {pki.Server.Cert, pki.Server.Key, pki.Server.Key}} {
		if _, err := serve.LoadTLS(files[0], files[1], files[2]); err == nil {
			t.Errorf("LoadTLS(%v) = nil", files)
		}
	}
}
