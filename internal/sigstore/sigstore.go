// Package sigstore signs container images the way podman checks them: a text in the
// "simple signing" form that ties a name to a manifest, signed with a key of the project, and
// what a device has to be told to ask for it.
//
//	sig, err := sigstore.Sign(key, "registry.example.com/apps/lynx:1.0", "sha256:...")
//	claim, err := sigstore.Verify(sig, keys)
//
// [Policy] and [Attachments] make the two settings of podman; [Tag] is where a registry keeps
// the signatures of a manifest.
//
// Keys are Ed25519, as everywhere here; podman takes their .pub files as they are. There are no
// certificates and no transparency log: a device trusts a key that it has. The package only
// works on bytes. The same key, name and digest give the same signature.
package sigstore

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/OSInside/eos/internal/key"
)

// How a registry keeps signatures: in the layers of an image, whose annotation has the
// signature of the layer.
const (
	LayerType  = "application/vnd.dev.cosign.simplesigning.v1+json"
	Annotation = "dev.cosignproject.cosign/signature"
)

// maxPayload bounds what is signed; real ones have some 300 bytes.
const maxPayload = 64 << 10

// A Signature is a signed claim.
type Signature struct {
	Payload   []byte // JSON
	Signature string // of Payload, in base64
}

// A Claim is what a signature says: this name is this manifest.
type Claim struct {
	Reference string // REGISTRY/NAME:TAG
	Digest    string // of the manifest, sha256:...
}

// ErrUnverified says that a signature is by no key that is trusted, or not of what it is with.
var ErrUnverified = errors.New("the signature does not verify")

// Sign signs that reference, a full name with a tag, is the manifest of a digest.
func Sign(k key.Private, reference, digest string) (Signature, error) {
	text, err := json.Marshal(payload.SimpleContainerImage{Critical: payload.Critical{
		Identity: payload.Identity{DockerReference: reference},
		Image:    payload.Image{DockerManifestDigest: digest},
		Type:     payload.CosignSignatureType,
	}})
	if err != nil {
		return Signature{}, fmt.Errorf("sign %s: %w", reference, err)
	}
	return Signature{text, base64.StdEncoding.EncodeToString(ed25519.Sign(k.Key, text))}, nil
}

// Verify returns what a signature by one of the keys says, and the key.
func Verify(s Signature, keys []key.Public) (Claim, key.Public, error) {
	by, err := signer(s, keys)
	if err != nil {
		return Claim{}, key.Public{}, err
	}
	// Only now is it worth to be read.
	c, err := parse(s.Payload)
	return c, by, err
}

func signer(s Signature, keys []key.Public) (key.Public, error) {
	raw, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil || len(s.Payload) > maxPayload {
		return key.Public{}, fmt.Errorf("read signature: %w", ErrUnverified)
	}
	for _, k := range keys {
		if ed25519.Verify(k.Key, s.Payload, raw) {
			return k, nil
		}
	}
	return key.Public{}, fmt.Errorf("%w: it is by none of the keys", ErrUnverified)
}

func parse(text []byte) (Claim, error) {
	var p payload.SimpleContainerImage
	d := json.NewDecoder(bytes.NewReader(text))
	err := d.Decode(&p)
	if _, end := d.Token(); err == nil && end != io.EOF {
		err = errors.New("there is something after it")
	}
	if err != nil {
		return Claim{}, fmt.Errorf("read what was signed: %w", err)
	}
	c := Claim{p.Critical.Identity.DockerReference, p.Critical.Image.DockerManifestDigest}
	if p.Critical.Type != payload.CosignSignatureType || c.Reference == "" || c.Digest == "" {
		return Claim{}, fmt.Errorf("read what was signed: %w: it is not about a container image", ErrUnverified)
	}
	return c, nil
}

// Tag returns the tag that the signatures of a manifest have in a registry.
func Tag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }
