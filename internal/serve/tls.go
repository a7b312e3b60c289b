package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// LoadTLS returns a configuration with the certificate in two PEM files. They are looked at again
// as they change, so that a certificate can be renewed without a restart; until both fit
// together, the old one stays. With clientCA, a PEM file of authorities, only clients that have a
// certificate of one of them are served.
func LoadTLS(certFile, keyFile, clientCA string) (*tls.Config, error) {
	r := &renewed{cert: certFile, key: keyFile}
	if _, err := r.get(nil); err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: r.get}
	if clientCA == "" {
		return c, nil
	}
	b, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, fmt.Errorf("read client authorities: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read client authorities: no certificate in %s", clientCA)
	}
	return c, nil
}

// renewed is a certificate in files that may be replaced.
type renewed struct {
	cert, key string

	mu      sync.Mutex
	current *tls.Certificate
	from    [2]time.Time // of the files it was read from
}

func (r *renewed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	times, err := modified(r.cert, r.key)
	if err == nil && (r.current == nil || times != r.from) {
		var c tls.Certificate
		if c, err = tls.LoadX509KeyPair(r.cert, r.key); err == nil {
			r.current, r.from = &c, times
		}
	}
	if r.current == nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return r.current, nil
}

func modified(files ...string) (times [2]time.Time, err error) {
	for i, f := range files {
		st, e := os.Stat(f)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		times[i] = st.ModTime()
	}
	return times, err
}
