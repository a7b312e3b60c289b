package key_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/key"
)

func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	if err := key.Generate(dir, "image"); err != nil {
		t.Fatal(err)
	}
	priv, err := key.LoadPrivate(filepath.Join(dir, "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	pubs, err := key.LoadPublicDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(pubs) != 1 || pubs[0].Name != "image" || pubs[0].ID != priv.ID || !pubs[0].Key.Equal(priv.Public().Key) {
		t.Errorf("LoadPublicDir = %+v, want the pair of %+v", pubs, priv.ID)
	}
	if !ed25519.Verify(pubs[0].Key, []byte("m"), ed25519.Sign(priv.Key, []byte("m"))) {
		t.Error("the public half does not verify what the private half signed")
	}
	st, err := os.Stat(filepath.Join(dir, "image.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of image.key = %v, %v, want 0600", st.Mode().Perm(), err)
	}
}

func TestGenerateKeepsWhatIsThere(t *testing.T) {
	for _, name := range []string{"image.key", "image.pub"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := key.Generate(dir, "image"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Generate beside %s = %v, want fs.ErrExist", name, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != "mine" {
			t.Errorf("%s is %q, %v after Generate, want it untouched", name, got, err)
		}
		if e, _ := os.ReadDir(dir); len(e) != 1 {
			t.Errorf("Generate beside %s left %d files, want 1", name, len(e))
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/nonexistent", filepath.Join(dir, "image.key")); err != nil {
		t.Fatal(err)
	}
	if err := key.Generate(dir, "image"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Generate over a dangling link = %v, want fs.ErrExist", err)
	}
}

func TestValidName(t *testing.T) {
	for _, name := range []string{"image", "image-2027", "a.b_C"} {
		if err := key.ValidName(name); err != nil {
			t.Errorf("ValidName(%q) = %v, want nil", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "../a", "a/b", "-a", ".a", "a b", "ä", strings.Repeat("a", 65), "a\x00"} {
		if err := key.ValidName(name); err == nil {
			t.Errorf("ValidName(%q) = nil, want an error", name)
		}
		if err := key.Generate(t.TempDir(), name); err == nil {
			t.Errorf("Generate(%q) = nil, want an error", name)
		}
	}
}

// A file written by: openssl genpkey -algorithm ed25519, from a seed of bytes 0 to 31.
const (
	opensslPrivate = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
`
	opensslPublic = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
-----END PUBLIC KEY-----
`
)

func TestOpenSSLFiles(t *testing.T) {
	priv, err := key.ParsePrivate([]byte(opensslPrivate))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.ParsePublic([]byte(opensslPublic))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(pub.Key), "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"; got != want {
		t.Errorf("public key = %s, want %s", got, want)
	}
	if want := "56475aa75463474c"; pub.ID != want || priv.ID != want {
		t.Errorf("IDs = %s and %s, want %s", pub.ID, priv.ID, want)
	}
	back, err := key.MarshalPrivate(priv.Key)
	if err != nil || string(back) != opensslPrivate {
		t.Errorf("MarshalPrivate = %s, %v, want the bytes it came from", back, err)
	}
	back, err = key.MarshalPublic(pub.Key)
	if err != nil || string(back) != opensslPublic {
		t.Errorf("MarshalPublic = %s, %v, want the bytes it came from", back, err)
	}
}

func TestParseRefuses(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecPub, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ecPriv, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	tests := []struct{ name, data, want string }{
		{"empty", "", "no PEM block"},
		{"text", "hello", "no PEM block"},
		{"half", opensslPublic[:40], "no PEM block"},
		{"two blocks", opensslPublic + opensslPublic, "data after the PEM block"},
		{"trailing text", opensslPublic + "x", "data after the PEM block"},
		{"damaged", block("PUBLIC KEY", []byte{1, 2, 3}), "not an Ed25519 key"},
		{"other curve", block("PUBLIC KEY", ecPub), "not an Ed25519 key"},
		{"private for public", opensslPrivate, `"PRIVATE KEY", want "PUBLIC KEY"`},
	}
	for _, tt := range tests {
		if _, err := key.ParsePublic([]byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParsePublic(%s) = %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := key.ParsePrivate([]byte(block("PRIVATE KEY", ecPriv))); err == nil || !strings.Contains(err.Error(), "not an Ed25519 key") {
		t.Errorf("ParsePrivate(other curve) = %v, want an error", err)
	}
	if _, err := key.ParsePrivate([]byte(opensslPublic)); err == nil {
		t.Error("ParsePrivate(public) = nil, want an error")
	}
}

// crypto/x509 as oracle: the same bytes for any key, in both directions.
func TestFilesAreThoseOfX509(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), ed25519.SeedSize, ed25519.SeedSize).Draw(t, "seed")
		priv := ed25519.NewKeyFromSeed(seed)
		wantPriv, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		wantPub, err := x509.MarshalPKIXPublicKey(priv.Public())
		if err != nil {
			t.Fatal(err)
		}
		privPEM, err := key.MarshalPrivate(priv)
		if err != nil {
			t.Fatal(err)
		}
		pubPEM, err := key.MarshalPublic(priv.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := pem.Decode(privPEM); !bytes.Equal(b.Bytes, wantPriv) {
			t.Errorf("MarshalPrivate = %x, want %x", b.Bytes, wantPriv)
		}
		if b, _ := pem.Decode(pubPEM); !bytes.Equal(b.Bytes, wantPub) {
			t.Errorf("MarshalPublic = %x, want %x", b.Bytes, wantPub)
		}
		if got, err := key.ParsePrivate(privPEM); err != nil || !got.Key.Equal(priv) {
			t.Errorf("ParsePrivate = %v, want the key back", err)
		}
	})
	if _, err := key.MarshalPublic(nil); err == nil {
		t.Error("MarshalPublic(nil) = nil, want an error")
	}
	if _, err := key.MarshalPrivate(nil); err == nil {
		t.Error("MarshalPrivate(nil) = nil, want an error")
	}
}

func TestLoadPublicDir(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", "c"} {
		if err := key.Generate(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := key.LoadPublicDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.Name)
	}
	if got := strings.Join(names, ","); got != "a,b,c" {
		t.Errorf("LoadPublicDir = %s, want a,b,c", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "d.pub"), bytes.Repeat([]byte("x"), 20<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := key.LoadPublicDir(dir); err == nil || !strings.Contains(err.Error(), "d.pub") {
		t.Errorf("LoadPublicDir with a broken file = %v, want an error that names it", err)
	}
	if _, err := key.LoadPublicDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadPublicDir(none) = %v, want fs.ErrNotExist", err)
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add([]byte(opensslPublic))
	f.Add([]byte(opensslPrivate))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := key.ParsePublic(data)
		if err != nil {
			return
		}
		out, err := key.MarshalPublic(p.Key)
		if err != nil {
			t.Fatal(err)
		}
		again, err := key.ParsePublic(out)
		if err != nil || again.ID != p.ID {
			t.Errorf("ParsePublic(MarshalPublic(k)) = %v, %v, want %v", again, err, p)
		}
	})
}
