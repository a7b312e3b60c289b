package update

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// tlsConfig says whom https trusts, and who this device is. now is the clock that expiry is judged
// by: a device without one of its own has at least the time at which its image was built.
func (c Config) tlsConfig(now func() time.Time) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, Time: now}
	if c.CA != "" {
		b, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read authorities for https: %w", err)
		}
		if t.RootCAs, err = x509.SystemCertPool(); err != nil {
			t.RootCAs = x509.NewCertPool() // an image may have none
		}
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("read authorities for https: no certificate in %s", c.CA)
		}
	}
	if c.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read the device's certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

// tlsHint says what to do about an error of TLS.
func tlsHint(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var alert tls.AlertError
	switch {
	case errors.As(err, &unknown):
		return "the server's certificate is of an authority that this device does not know: name it with `ca:` in " + ConfigFile
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired, or this device's clock is wrong"
	case errors.As(err, &host):
		return "`server:` has to name the host as its certificate does"
	case errors.As(err, &alert):
		return "the server does not accept this device: `certificate:` and `key:` in " + ConfigFile + " say who it is"
	}
	return ""
}
