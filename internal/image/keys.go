package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/initramfs"
	"github.com/OSInside/eos/internal/key"
)

// rootMetadata is the file in the keys folder that an image's os-update begins
// to trust a repository with.
const rootMetadata = "root.json"

// loadKeys reads the key that signs and those that are accepted. A missing one
// is found before the first package is fetched.
func (b *build) loadKeys() error {
	var err error
	sign := b.Spec.Keys.Sign
	if !strings.Contains(sign, "/") {
		sign = filepath.Join(b.KeysDir, sign+".key")
	}
	if b.signer, err = key.LoadPrivate(sign); err != nil {
		return cli.Refuse(cli.Failure, err, "make keys with: eos keys new")
	}
	b.in.keyFiles = map[string][]byte{}
	accepted := false
	for _, name := range b.Spec.Keys.Accept {
		path := name
		if !strings.Contains(name, "/") && !strings.HasSuffix(name, ".pub") {
			path = filepath.Join(b.KeysDir, name+".pub")
		} else if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(b.Spec.File), path)
		}
		public, err := key.LoadPublic(path)
		if err != nil {
			return cli.Refuse(cli.Failure, err, "make keys with: eos keys new")
		}
		accepted = accepted || public.ID == b.signer.Public().ID
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read accepted key: %w", err)
		}
		file := filepath.Base(path)
		if b.in.keyFiles[file] != nil {
			return fmt.Errorf("read accepted keys: two files are named %s", file)
		}
		b.in.keyFiles[file] = text
		b.in.accept = append(b.in.accept, public)
	}
	if !accepted {
		return cli.Refuse(cli.Failure,
			fmt.Errorf("sign with key %s: the image would not accept it", b.Spec.Keys.Sign),
			"add it to keys.accept of the image description")
	}
	b.in.rootJSON, err = os.ReadFile(filepath.Join(b.KeysDir, rootMetadata))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read trusted repository root: %w", err)
	}
	if server := b.Spec.Update.Server; b.in.rootJSON == nil && strings.HasPrefix(server, "http") {
		// Such a device could be updated by nobody, and nobody could change that.
		return cli.Refuse(cli.Failure, fmt.Errorf("read trusted repository root: %w: the image could not verify what %s offers", err, server),
			"eos keys new makes root.json together with a whole set of keys")
	}
	return nil
}

// initKeys are the accepted keys for the initramfs, in the order of their names.
func (b *build) initKeys() []initramfs.Key {
	var out []initramfs.Key
	for _, name := range sortedKeys(b.in.keyFiles) {
		out = append(out, initramfs.Key{Name: name, PEM: b.in.keyFiles[name]})
	}
	return out
}
