package vm_test

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

// What is refused before the first byte of the other slot is written, each in its own words.
// The repositories are signed by the right people: it is the device that must say no.
func TestRefusals(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 7)
	settled(t, v)
	const slotB = "/dev/disk/by-partlabel/p.lxrootclone1"
	before := v.MustSSH(t, "sha256sum "+slotB)
	image, err := key.LoadPrivate(filepath.Join(l.keys, "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	stranger := slotimagetest.Key(1)
	for _, c := range []struct {
		name, words string
		code        int
		change      func(m *slotimage.Manifest)
		blocks      int
		key         ed25519.PrivateKey
		unsigned    bool
	}{
		{name: "older", code: 4, words: "older", change: func(m *slotimage.Manifest) { m.Version = "0.9" }},
		{name: "other class", code: 4, words: "class", change: func(m *slotimage.Manifest) { m.Class = "toaster" }},
		{name: "other architecture", code: 4, words: "arm64", change: func(m *slotimage.Manifest) { m.Arch = "arm64" }},
		{name: "larger than the slot", code: 4, words: "larger than", blocks: 280 << 20 / slotimage.BlockSize},
		{name: "wrong key", code: 6, words: "key", key: stranger},
		{name: "unsigned", code: 6, words: "not signed", unsigned: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := slotimage.Manifest{Name: "minimal", Class: "generic-x86_64", Arch: "amd64", Version: "9.9", BuildID: fmt.Sprintf("%064x", 9), Built: time.Now().Unix()}
			if c.change != nil {
				c.change(&m)
			}
			signer := c.key
			if signer == nil {
				signer = image.Key
			}
			repo := l.forge(t, m, max(c.blocks, 16), signer)
			if c.unsigned {
				l.unsign(t, repo)
			}
			s := l.serve(t, repo)
			// Every forged repository is at version 1 of its metadata; what the last one
			// said must not be taken for this one's.
			v.MustSSH(t, "rm -rf /run/os-update")
			refused(t, v, c.code, c.words, "--apply --server "+s.URL())
		})
	}
	t.Run("expired", func(t *testing.T) {
		s := l.serve(t, l.publish(t, l.v2(t)))
		v.MustSSH(t, fmt.Sprintf("systemctl stop systemd-timesyncd; date -s @%d", time.Now().Add(5*365*24*time.Hour).Unix()))
		refused(t, v, 4, "expired", "--apply --server "+s.URL())
	})
	if after := v.MustSSH(t, "sha256sum "+slotB); after != before {
		t.Error("a refused update has written to slot b")
	}
	if st := status(t, v); slotOf(t, st, bootstate.B).Status != bootstate.Empty {
		t.Errorf("slot b is %s after refusals only", slotOf(t, st, bootstate.B).Status)
	}
}

// forge publishes an image of noise whose manifest says what the test wants.
func (l *lab) forge(t *testing.T, m slotimage.Manifest, blocks int, signer ed25519.PrivateKey) string {
	t.Helper()
	b, _ := slotimagetest.Image(t, m, blocks, 1, signer)
	file := filepath.Join(t.TempDir(), "forged.slot")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := repository.LoadRoot(l.keys)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := repository.LoadKeyring(l.keys)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "repo")
	r, err := repository.Init(t.Context(), repository.Folder(dir), root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(t.Context(), []string{file}, repository.PublishOptions{
		Keys: ring, Accepted: []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)},
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}
