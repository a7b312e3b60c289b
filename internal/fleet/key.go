package fleet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxKey bounds the file of a private key; RSA keys of 16384 bits have 13 KiB.
const maxKey = 64 << 10

// ErrPassphrase says that a private key is of no use to a device, which has nobody to ask.
var ErrPassphrase = errors.New("it is protected by a passphrase")

// Key is a private key that an ssh program can use.
type Key struct {
	private []byte // the text of the file
	public  ssh.PublicKey
}

// ParseKey reads the text of a private key file. Errors repeat nothing of it.
func ParseKey(text []byte) (*Key, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("ssh-")) {
		return nil, errors.New("it is a public key")
	}
	signer, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return nil, ErrPassphrase
	case err != nil:
		return nil, errors.New("it is not an ssh private key")
	}
	// ssh refuses a file whose last line is not ended.
	private := append(bytes.TrimRight(text, "\r\n"), '\n')
	return &Key{private: private, public: signer.PublicKey()}, nil
}

// LoadKey reads a private key file.
func LoadKey(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open private key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if len(text) > maxKey {
		return nil, fmt.Errorf("read private key %s: longer than %d bytes", path, maxKey)
	}
	k, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("read private key %s: %w", path, err)
	}
	return k, nil
}

// newKey makes a key pair.
func newKey(comment string) (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return ParseKey(pem.EncodeToMemory(block))
}

// Private returns the text of the private key's file. It is for files of mode 0600.
func (k *Key) Private() []byte { return bytes.Clone(k.private) }

// Public returns type and public key, as they stand in a line of authorized_keys.
func (k *Key) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public)))
}

// Fingerprint returns the name by which servers log the key.
func (k *Key) Fingerprint() string { return ssh.FingerprintSHA256(k.public) }

// String keeps the private key out of everything that prints values.
func (k *Key) String() string { return k.Fingerprint() }

// GoString does the same for %#v.
func (k *Key) GoString() string { return "fleet.Key(" + k.Fingerprint() + ")" }
