package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

// signed checks an OpenPGP signature: of the checksum, which the image was compared with, beside
// it or around it, or of the image itself.
func (j *job) signed(ctx context.Context, sums []byte) error {
	b, err := os.ReadFile(j.src().Keyring)
	if err != nil {
		return fmt.Errorf("read keyring: %w", err)
	}
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(b))
	if err != nil {
		if ring, err = openpgp.ReadKeyRing(bytes.NewReader(b)); err != nil {
			return fmt.Errorf("read keyring %s: %w", j.src().Keyring, err)
		}
	}
	bad := func(what string, err error) error { return fmt.Errorf("%w: %s: %w", ErrChecksum, what, err) }
	if sums != nil {
		if block, _ := clearsign.Decode(sums); block != nil {
			if _, err := block.VerifySignature(ring, nil); err != nil {
				return bad("signed checksum", err)
			}
			// The digest that counts must be inside what is signed.
			if m := digest.FindSubmatch(block.Plaintext); m == nil || !bytes.Equal(m[1], digest.FindSubmatch(sums)[1]) {
				return bad("signed checksum", errors.New("another one stands before it"))
			}
			return nil
		}
		sig, err := j.small(ctx, ".sha256.asc")
		if err != nil {
			return err
		}
		if sig != nil {
			if _, err := openpgp.CheckArmoredDetachedSignature(ring, bytes.NewReader(sums), bytes.NewReader(sig), nil); err != nil {
				return bad("signature of the checksum", err)
			}
			return nil
		}
	}
	sig, err := j.small(ctx, ".asc")
	if err != nil {
		return err
	}
	if sig == nil {
		return fmt.Errorf("%w: a keyring is configured, but the origin publishes no signature (.sha256.asc or .asc)", ErrChecksum)
	}
	f, err := os.Open(j.file(partFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := openpgp.CheckArmoredDetachedSignature(ring, io.Reader(contextReader(ctx, f)), bytes.NewReader(sig), nil); err != nil {
		return bad("signature", err)
	}
	return nil
}
