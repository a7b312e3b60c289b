// Package tlstest makes an authority, a server's certificate and a device's, for tests.
package tlstest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Pair are the files of a certificate and its private key.
type Pair struct{ Cert, Key string }

// A PKI is an authority and what it has signed. All is good for a month around a time.
type PKI struct {
	CA             string // file of the authority's certificate
	Server, Device Pair   // the server is 127.0.0.1

	t      testing.TB
	dir    string
	now    time.Time
	ca     *x509.Certificate
	key    ed25519.PrivateKey
	serial int64
}

// New makes one.
func New(t testing.TB, now time.Time) *PKI {
	t.Helper()
	p := &PKI{t: t, dir: t.TempDir(), now: now}
	authority := p.Issue("ca")
	p.CA = authority.Cert
	p.Server, p.Device = p.Issue("server"), p.Issue("device")
	return p
}

// Issue makes a certificate with a new key, in files of that name. The first one is the
// authority itself.
func (p *PKI) Issue(name string) Pair {
	p.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	p.must(err)
	p.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: p.now.Add(-15 * 24 * time.Hour), NotAfter: p.now.Add(15 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if p.ca == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		p.ca, p.key = c, private
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.ca, public, p.key)
	p.must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	p.must(err)
	pair := Pair{filepath.Join(p.dir, name+".pem"), filepath.Join(p.dir, name+".key")}
	p.must(os.WriteFile(pair.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	p.must(os.WriteFile(pair.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return pair
}

func (p *PKI) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}
