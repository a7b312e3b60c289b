package slotimage_test

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

// seeds adds the bytes of every vector of a kind.
func seeds(f *testing.F, kind string) {
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.txt"))
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		v, err := parseVector(file, text)
		if err != nil {
			f.Fatal(err)
		}
		if v.kind == kind {
			f.Add(v.bytes)
			n++
		}
	}
	if n == 0 {
		f.Fatalf("no seeds of kind %s in %s", kind, vectorDir)
	}
}

// FuzzParseBlock holds the parser to one encoding: what it takes, it gives
// back byte for byte, and signing the same manifest gives the same text.
func FuzzParseBlock(f *testing.F) {
	seeds(f, "block")
	keys := []ed25519.PublicKey{slotimagetest.Public(1)}
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := slotimage.ParseBlock(in)
		if err != nil {
			return
		}
		if out := b.Marshal(); !bytes.Equal(out, in) {
			t.Fatalf("ParseBlock(%x).Marshal() = %x", in, out)
		}
		again, err := b.Unverified().Sign(slotimagetest.Key(1))
		if err != nil {
			t.Fatalf("Sign of a parsed manifest: %v", err)
		}
		if !bytes.Equal(again[:3072], in[:3072]) {
			t.Fatalf("signed part of %x is encoded as %x", in[:3072], again[:3072])
		}
		if _, err := b.Verify(keys); (err == nil) && len(b.KeyIDs()) == 0 {
			t.Fatal("a block without signatures was verified")
		}
	})
}

// FuzzManifestJSON gets past the outer format, which a fuzzer rarely does.
func FuzzManifestJSON(f *testing.F) {
	f.Add(goodJSON)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 3056 {
			return
		}
		b, err := slotimage.ParseBlock(sign(signedPart(text)))
		if err != nil {
			return
		}
		again, err := b.Unverified().Sign(slotimagetest.Key(1))
		if err != nil || !bytes.Equal(again[:3072], signedPart(text)) {
			t.Fatalf("manifest %q is encoded as %q (%v)", text, again[16:3072], err)
		}
	})
}

// FuzzRead reads arbitrary images.
func FuzzRead(f *testing.F) {
	seeds(f, "image")
	keys := []ed25519.PublicKey{slotimagetest.Public(1)}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		m, err := slotimage.Read(r, r.Size(), keys)
		if err != nil {
			return
		}
		if m.ImageSize > r.Size() || m.DataSize >= m.ImageSize {
			t.Fatalf("Read of %d bytes = %+v", len(in), m)
		}
		// Whatever the bytes, an image is what was signed or is corrupt.
		_ = slotimage.Verify(t.Context(), r, m, nil)
	})
}
