package update

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve"
	"github.com/OSInside/eos/internal/serve/tlstest"
)

// TestOverTLS checks for updates at a server whose authority the device has to be told, and which
// asks for the device's certificate.
func TestOverTLS(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	pki := tlstest.New(t, epoch)
	config, err := serve.LoadTLS(pki.Server.Cert, pki.Server.Key, pki.CA)
	l.must(err)
	config.Time = func() time.Time { return epoch }
	server := httptest.NewUnstartedServer(http.FileServer(http.Dir(l.repo)))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the clients that it turns away
	server.Listener = tls.NewListener(server.Listener, config)
	server.Start()
	t.Cleanup(server.Close)
	address := strings.Replace(server.URL, "http:", "https:", 1)

	l.u.Trust.HTTP = nil
	l.u.Trust.Retries = -1
	good := Config{Server: address, Name: "eos", CA: pki.CA, Certificate: pki.Device.Cert, Key: pki.Device.Key}
	l.u.Config = good
	res, err := l.u.Check(t.Context(), Choice{})
	l.must(err)
	if !res.Update {
		t.Errorf("Check over TLS = %+v, want an update", res)
	}
	other := tlstest.New(t, epoch)
	garbage := filepath.Join(t.TempDir(), "garbage")
	l.must(os.WriteFile(garbage, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), 0o600))
	for _, c := range []struct {
		name   string
		change func(*Config)
		code   cli.Code
		text   string
	}{
		{"unknown authority", func(c *Config) { c.CA = "" }, cli.Unreachable, "unknown authority"},
		{"other authority", func(c *Config) { c.CA = other.CA }, cli.Unreachable, "unknown authority"},
		{"no certificate", func(c *Config) { c.Certificate, c.Key = "", "" }, cli.Unreachable, "certificate"},
		{"certificate of others", func(c *Config) { c.Certificate, c.Key = other.Device.Cert, other.Device.Key }, cli.Unreachable, "certificate"},
		{"key of others", func(c *Config) { c.Key = other.Device.Key }, cli.Failure, "private key does not match"},
		{"no file", func(c *Config) { c.CA += "x" }, cli.Failure, "no such file"},
		{"garbage", func(c *Config) { c.CA = garbage }, cli.Failure, "no certificate in"},
	} {
		l.u.Config = good
		c.change(&l.u.Config)
		_, err := l.u.Check(t.Context(), Choice{})
		if c.code != cli.Failure {
			wantCode(t, c.name, err, c.code, c.text)
		} else if err == nil {
			t.Errorf("%s: no error, want %q", c.name, c.text)
		}
	}
}

// TestClockOfTLS judges a certificate by the clock that metadata is judged by: a device without
// a clock of its own has the time at which its image was built.
func TestClockOfTLS(t *testing.T) {
	pki := tlstest.New(t, epoch)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	cert, err := tls.LoadX509KeyPair(pki.Server.Cert, pki.Server.Key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	for now, ok := range map[time.Time]bool{epoch: true, epoch.Add(-10 * 365 * 24 * time.Hour): false, epoch.Add(10 * 365 * 24 * time.Hour): false} {
		config, err := Config{CA: pki.CA}.tlsConfig(func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		res, err := client.Get(server.URL)
		if (err == nil) != ok {
			t.Errorf("at %v: %v, want ok %v", now, err, ok)
		}
		if err == nil {
			res.Body.Close()
		} else if tlsHint(err) == "" {
			t.Errorf("at %v: no hint for %v", now, err)
		}
		client.CloseIdleConnections()
	}
}
