package sigstore_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/sigstore"
)

const (
	reference = "registry.example.com/apps/lynx:1.0"
	digest    = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// newKey returns the key of a seed of one byte.
func newKey(seed byte) key.Private {
	k := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
	return key.Private{ID: key.ID(k.Public().(ed25519.PublicKey)), Key: k}
}

func TestSign(t *testing.T) {
	ours, other := newKey('a'), newKey('b')
	s, err := sigstore.Sign(ours, reference, digest)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"critical":{"identity":{"docker-reference":"` + reference + `"},"image":{"docker-manifest-digest":"` + digest + `"},"type":"cosign container image signature"},"optional":null}`
	if string(s.Payload) != want {
		t.Errorf("signed text %s, want %s", s.Payload, want)
	}
	again, err := sigstore.Sign(ours, reference, digest)
	if diff := cmp.Diff(s, again); diff != "" || err != nil {
		t.Errorf("the same is signed in two ways, %v:\n%s", err, diff)
	}
	c, by, err := sigstore.Verify(s, []key.Public{other.Public(), ours.Public()})
	if err != nil || c != (sigstore.Claim{Reference: reference, Digest: digest}) || by.ID != ours.ID {
		t.Errorf("Verify = %+v, by %s, %v", c, by.ID, err)
	}
	changed := s
	changed.Payload = []byte(strings.Replace(string(s.Payload), "1.0", "2.0", 1))
	noText := s
	noText.Payload = nil
	noBase64 := s
	noBase64.Signature = "?"
	for what, s := range map[string]sigstore.Signature{"another text": changed, "no text": noText, "no base64": noBase64, "nothing": {}} {
		if _, _, err := sigstore.Verify(s, []key.Public{ours.Public()}); !errors.Is(err, sigstore.ErrUnverified) {
			t.Errorf("Verify of %s: %v, want that it does not verify", what, err)
		}
	}
	for _, keys := range [][]key.Public{nil, {other.Public()}} {
		if _, _, err := sigstore.Verify(s, keys); !errors.Is(err, sigstore.ErrUnverified) {
			t.Errorf("Verify with %d keys of others: %v, want that it does not verify", len(keys), err)
		}
	}
	if got := sigstore.Tag(digest); got != "sha256-"+digest[7:]+".sig" {
		t.Errorf("Tag = %q", got)
	}
}

// sign signs any text.
func sign(k key.Private, text string) sigstore.Signature {
	return sigstore.Signature{Payload: []byte(text), Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(k.Key, []byte(text)))}
}

// What our key signed for another purpose says nothing about an image.
func TestSignedButNoClaim(t *testing.T) {
	k := newKey('a')
	for _, text := range []string{
		"", "{}", "[]", "null", `{"critical":{"type":"atomic container signature","identity":{"docker-reference":"a"},"image":{"docker-manifest-digest":"b"}}}`,
		`{"critical":{"type":"cosign container image signature","identity":{},"image":{"docker-manifest-digest":"b"}}}`,
		`{"critical":{"type":"cosign container image signature","identity":{"docker-reference":"a"},"image":{"docker-manifest-digest":"b"}}} {}`,
	} {
		if c, _, err := sigstore.Verify(sign(k, text), []key.Public{k.Public()}); err == nil {
			t.Errorf("Verify of the signed text %q = %+v, want an error", text, c)
		}
	}
}

func TestPolicy(t *testing.T) {
	const base = `{"default":[{"type":"reject"}],"transports":{"oci-archive":{"":[{"type":"insecureAcceptAnything"}]},"docker":{"a.example.com":[{"type":"reject"}]}}}`
	text, err := sigstore.Policy([]byte(base), "registry.example.com/apps", "/etc/containers/keys/app.pub")
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.Replace(base, `"docker":{`,
		`"docker":{"registry.example.com/apps":[{"type":"sigstoreSigned","keyPath":"/etc/containers/keys/app.pub"}],`, 1)), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if text, err := sigstore.Policy([]byte("{}"), "a.example.com", "/k"); err != nil || !strings.Contains(string(text), "sigstoreSigned") {
		t.Errorf("a policy on an empty one is %s, %v", text, err)
	}
	for _, base := range []string{"", "null", "[]", `{"transports":[]}`} {
		if _, err := sigstore.Policy([]byte(base), "a.example.com", "/k"); err == nil {
			t.Errorf("a policy on %q is no error", base)
		}
	}
	text, err = sigstore.Attachments("registry.example.com:5000/apps")
	if want := "docker:\n    registry.example.com:5000/apps:\n        use-sigstore-attachments: true\n"; err != nil || string(text) != want {
		t.Errorf("Attachments = %q, %v, want %q", text, err, want)
	}
}

// FuzzVerify reads what a key of ours has signed, whatever it is, and takes no other.
func FuzzVerify(f *testing.F) {
	k := newKey('a')
	s, err := sigstore.Sign(k, reference, digest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(s.Payload), s.Signature)
	f.Add("{}", "")
	f.Fuzz(func(t *testing.T, text, signature string) {
		c, _, err := sigstore.Verify(sign(k, text), []key.Public{k.Public()})
		if err == nil && (c.Reference == "" || c.Digest == "") {
			t.Errorf("%q claims %+v", text, c)
		}
		if _, _, err := sigstore.Verify(sigstore.Signature{Payload: []byte(text), Signature: signature}, []key.Public{newKey('b').Public()}); err == nil {
			t.Errorf("a key that has signed nothing has signed %q", text)
		}
	})
}
