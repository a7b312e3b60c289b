package oci_test

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/oci"
	"github.com/OSInside/eos/internal/sigstore"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const shortName = "localhost/a:latest"

// signer returns the key of a seed of one byte.
func signer(seed string) key.Private {
	k := ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
	return key.Private{ID: key.ID(k.Public().(ed25519.PublicKey)), Key: k}
}

func signed(t testing.TB, img v1.Image, name string, by key.Private) sigstore.Signature {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	s, err := sigstore.Sign(by, name, d.String())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signedArchive(t testing.TB, img v1.Image, name string, s sigstore.Signature) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := oci.WriteSignedArchive(&b, img, name, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entry is a file of an archive that is taken apart.
type entry struct {
	tar.Header
	data []byte
}

func unpack(t *testing.T, archive []byte) []entry {
	t.Helper()
	var all []entry
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{*h, data})
	}
}

func pack(t *testing.T, all []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		e.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVerifyArchive(t *testing.T) {
	img, ours := sample(t), signer("a")
	keys := []key.Public{signer("b").Public(), ours.Public()}
	good := signedArchive(t, img, shortName, signed(t, img, shortName, ours))
	if !bytes.Equal(good, signedArchive(t, img, shortName, signed(t, img, shortName, ours))) {
		t.Error("the same image gives two archives")
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	verify := func(archive []byte, keys []key.Public) (*oci.Verified, error) {
		t.Helper()
		if err := os.WriteFile(file, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		return oci.VerifyArchive(file, keys)
	}
	id, err1 := img.ConfigName()
	digest, err2 := img.Digest()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	v, err := verify(good, keys)
	if err != nil || v.Name != shortName || v.ID != id.String() || v.Digest != digest.String() || v.Key.ID != ours.ID {
		t.Fatalf("VerifyArchive = %+v, %v", v, err)
	}
	if got, err := oci.OpenArchive(file, "amd64"); err != nil {
		t.Error(err)
	} else {
		same(t, got, img, true)
	}

	other := sample(t)
	change := func(f func([]entry) []entry) []byte { return pack(t, f(unpack(t, good))) }
	each := func(f func(e *entry)) func([]entry) []entry {
		return func(all []entry) []entry {
			for i := range all {
				f(&all[i])
			}
			return all
		}
	}
	replace := func(file, old, new string) []byte {
		return change(each(func(e *entry) {
			if e.Name == file && bytes.Contains(e.data, []byte(old)) {
				e.data = bytes.Replace(e.data, []byte(old), []byte(new), 1)
			}
		}))
	}
	plain := bytes.Buffer{}
	if err := oci.WriteArchive(&plain, img, shortName); err != nil {
		t.Fatal(err)
	}
	extra := func(h tar.Header, data string) []byte {
		return change(func(all []entry) []entry { return append(all, entry{h, []byte(data)}) })
	}
	for what, archive := range map[string][]byte{
		"without a signature":       plain.Bytes(),
		"by another key":            signedArchive(t, img, shortName, signed(t, img, shortName, signer("c"))),
		"of another image":          signedArchive(t, img, shortName, signed(t, other, shortName, ours)),
		"of another name":           signedArchive(t, img, "localhost/b:latest", signed(t, img, shortName, ours)),
		"with a changed name":       replace("index.json", shortName, "localhost/b:latest"),
		"with a second annotation":  replace("index.json", `"annotations":{`, `"annotations":{"a":"b",`),
		"with spaces in the index":  replace("index.json", `{"schemaVersion"`, ` {"schemaVersion"`),
		"with another layout":       replace("oci-layout", "1.0.0", "1.1.0"),
		"with a flipped layer byte": change(each(func(e *entry) { e.data[len(e.data)/2] ^= map[bool]byte{true: 1}[len(e.data) > 2000] })),
		"with one blob more":        extra(tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Mode: 0o644}, "x"),
		"with docker's manifest":    extra(tar.Header{Name: "manifest.json", Mode: 0o644}, "[]"),
		"with a link":               extra(tar.Header{Name: "index.json", Typeflag: tar.TypeSymlink, Linkname: "/x"}, ""),
		"with a folder":             extra(tar.Header{Name: "blobs/", Typeflag: tar.TypeDir, Mode: 0o755}, ""),
		"with another form of name": change(each(func(e *entry) { e.Name = strings.Replace(e.Name, "index", "./index", 1) })),
	} {
		if bytes.Equal(archive, good) {
			t.Fatalf("%s: the archive is the good one", what)
		}
		if v, err := verify(archive, keys); !errors.Is(err, sigstore.ErrUnverified) {
			t.Errorf("an archive %s = %+v, %v, want that it does not verify", what, v, err)
		}
	}
	if _, err := verify(good, nil); !errors.Is(err, sigstore.ErrUnverified) {
		t.Errorf("VerifyArchive without keys: %v, want that it does not verify", err)
	}
	missing := change(func(all []entry) []entry {
		return slices.DeleteFunc(all, func(e entry) bool { return len(e.data) > 2000 })
	})
	for what, archive := range map[string][]byte{"nothing": {}, "half": good[:len(good)/2], "missing": missing} {
		if v, err := verify(archive, keys); err == nil {
			t.Errorf("an archive that is %s = %+v, want an error", what, v)
		}
	}
}

func TestCompress(t *testing.T) {
	img := sample(t)
	packed, err := oci.Compress(img, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	same(t, packed, img, false)
	m, err := packed.Manifest()
	if err != nil || m.MediaType != types.OCIManifestSchema1 || len(m.Layers) != 2 || m.Layers[0].MediaType != types.OCILayer {
		t.Errorf("manifest %+v, %v, want one of the OCI with two compressed layers", m, err)
	}
	again, err := oci.Compress(img, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	same(t, again, packed, true)
}

// requests counts, and can refuse, what a registry is asked.
type requests struct {
	next   http.Handler
	log    []string
	refuse func(*http.Request) bool
}

func (r *requests) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r.refuse != nil && r.refuse(q) {
		http.Error(w, "refused", http.StatusForbidden)
		return
	}
	if q.Method == http.MethodPut && strings.Contains(q.URL.Path, "/manifests/") {
		r.log = append(r.log, q.URL.Path[strings.LastIndexByte(q.URL.Path, '/')+1:])
	}
	r.next.ServeHTTP(w, q)
}

func TestPush(t *testing.T) {
	log := &requests{next: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(log)
	defer server.Close()
	to := imagename.Target{Registry: strings.TrimPrefix(server.URL, "http://"), Repository: "apps/a", Tag: "1.0"}
	img := sample(t)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	push := func(to imagename.Target, by key.Private) error {
		return oci.Push(t.Context(), img, to, signed(t, img, to.String(), by), false)
	}
	if err := push(to, signer("a")); err != nil {
		t.Fatal(err)
	}
	beside := sigstore.Tag(digest.String())
	if want := []string{digest.String(), beside, "1.0"}; !slices.Equal(log.log, want) {
		t.Errorf("manifests were put as %v, want %v: the tag last", log.log, want)
	}
	// Again, which adds nothing; by another key and as another name, which does.
	second := to
	second.Tag = "2.0"
	if err := errors.Join(push(to, signer("a")), push(to, signer("b")), push(second, signer("a"))); err != nil {
		t.Fatal(err)
	}
	repository, err := name.NewRepository(to.Registry + "/" + to.Repository)
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := remote.Image(repository.Tag(beside))
	if err != nil {
		t.Fatal(err)
	}
	m, err := signatures.Manifest()
	if err != nil || m.MediaType != types.OCIManifestSchema1 || len(m.Layers) != 3 {
		t.Fatalf("signatures %+v, %v, want three", m, err)
	}
	for i, want := range []struct {
		by   key.Private
		name string
	}{{signer("a"), to.String()}, {signer("b"), to.String()}, {signer("a"), second.String()}} {
		l, err := signatures.LayerByDigest(m.Layers[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		s := sigstore.Signature{Payload: text, Signature: m.Layers[i].Annotations[sigstore.Annotation]}
		claim, _, err := sigstore.Verify(s, []key.Public{want.by.Public()})
		if err != nil || claim != (sigstore.Claim{Reference: want.name, Digest: digest.String()}) || m.Layers[i].MediaType != sigstore.LayerType {
			t.Errorf("signature %d of type %s: %+v, %v, want %s", i, m.Layers[i].MediaType, claim, err, want.name)
		}
	}
	got, err := oci.Pull(t.Context(), imagename.Source{Registry: to.Registry, Repository: to.Repository, Digest: digest.String()}, "amd64", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img, true)

	// Where the signature cannot be put, the tag does not move.
	log.log, log.refuse = nil, func(q *http.Request) bool { return q.Method == http.MethodPut && strings.HasSuffix(q.URL.Path, ".sig") }
	third := to
	third.Tag = "3.0"
	if err := push(third, signer("a")); err == nil || !strings.Contains(err.Error(), "push container image "+third.String()+": write signatures") {
		t.Errorf("Push without signatures: %v, want an error", err)
	}
	if slices.Contains(log.log, "3.0") {
		t.Error("a tag names an image that is not signed")
	}
	// A registry that cannot be read is not one without signatures.
	log.log, log.refuse = nil, func(q *http.Request) bool { return q.Method == http.MethodGet && strings.HasSuffix(q.URL.Path, ".sig") }
	if err := push(to, signer("c")); err == nil || slices.Contains(log.log, beside) {
		t.Errorf("Push without a look at the signatures: %v, and put %v", err, log.log)
	}
}

// In the clear to another machine only when it is asked for. This machine has an address that
// looks like one.
func TestPushInsecure(t *testing.T) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(addresses, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil
	})
	if i < 0 {
		toolstreetest.Missing(t, "an address besides that of the loopback")
	}
	listener, err := net.Listen("tcp", addresses[i].(*net.IPNet).IP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	img, to := sample(t), imagename.Target{Registry: listener.Addr().String(), Repository: "a", Tag: "b"}
	s := signed(t, img, to.String(), signer("a"))
	if err := oci.Push(t.Context(), img, to, s, false); err == nil {
		t.Errorf("Push in the clear: %v, want an error", err)
	}
	if err := oci.Push(t.Context(), img, to, s, true); err != nil {
		t.Errorf("Push in the clear, as asked for: %v", err)
	}
}

// FuzzVerifyArchive finds nothing signed in what a key has not signed.
func FuzzVerifyArchive(f *testing.F) {
	img, err := oci.New(v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signedArchive(f, img, shortName, signed(f, img, shortName, signer("a"))))
	f.Add([]byte{})
	file := filepath.Join(f.TempDir(), "archive")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if v, err := oci.VerifyArchive(file, []key.Public{signer("b").Public()}); err == nil {
			t.Errorf("VerifyArchive = %+v", v)
		}
		_, _ = oci.VerifyArchive(file, []key.Public{signer("a").Public()})
	})
}
