package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// devKeyName is the ssh key of the keys folder that development images let in, so that
// eos ssh works for somebody who has no key of their own.
const devKeyName = "ssh_ed25519"

// devKey returns the public half of the keys folder's ssh key, which is made if it is not
// there. It only ever opens development images.
func devKey(keys string) (string, error) {
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return "", fmt.Errorf("make keys folder: %w", err)
	}
	path := filepath.Join(keys, devKeyName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newDevKey(path)
	}
	if err != nil {
		return "", fmt.Errorf("read ssh key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", fmt.Errorf("read ssh key %s: %w", path, err)
	}
	line := ssh.MarshalAuthorizedKey(signer.PublicKey())
	return string(line[:len(line)-1]) + " eos development key", nil
}

func newDevKey(path string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "eos development key")
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(block)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	return text, errors.Join(err, f.Sync(), f.Close())
}
