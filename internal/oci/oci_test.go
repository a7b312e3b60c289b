package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/oci"
)

// sample is an image for linux/amd64 of two layers, compressed.
func sample(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(3000, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// plainSums returns the sums of an image's plain layers, which are read for it.
func plainSums(t *testing.T, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := v1.SHA256(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Hex)
	}
	return strings.Join(all, " ")
}

// same compares what was opened with what it was made from.
func same(t *testing.T, got, want v1.Image, manifest bool) {
	t.Helper()
	if g, w := plainSums(t, got), plainSums(t, want); g != w {
		t.Errorf("layers %s, want %s", g, w)
	}
	g, err1 := got.ConfigName()
	w, err2 := want.ConfigName()
	if err := errors.Join(err1, err2); err != nil || g != w {
		t.Errorf("configuration %s, want %s, %v", g, w, err)
	}
	g, err1 = got.Digest()
	w, err2 = want.Digest()
	if err := errors.Join(err1, err2); manifest && (err != nil || g != w) {
		t.Errorf("manifest %s, want %s, %v", g, w, err)
	}
}

func TestOpenFolder(t *testing.T) {
	dir, img := t.TempDir(), sample(t)
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	got, err := oci.OpenFolder(dir, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img, true)

	// Two of them are no answer, and neither is one for another machine.
	if err := p.AppendImage(sample(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.OpenFolder(dir, "amd64"); err == nil || !strings.Contains(err.Error(), "there are 2") {
		t.Errorf("OpenFolder with two images: %v, want an error", err)
	}
	if _, err := oci.OpenFolder(filepath.Join(dir, "none"), "amd64"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenFolder of nothing: %v, want that it does not exist", err)
	}
}

// A blob that is not what it is named by is refused.
func TestSpoiltFolder(t *testing.T) {
	dir, img := t.TempDir(), sample(t)
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	name, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", name.Hex), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.OpenFolder(dir, "amd64"); err == nil || !strings.Contains(err.Error(), "its sum is") {
		t.Errorf("OpenFolder with another configuration: %v, want an error", err)
	}
}

func TestArchives(t *testing.T) {
	dir, img := t.TempDir(), sample(t)
	file := filepath.Join(dir, "a.oci.tar")
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := oci.WriteArchive(w, img, "localhost/a:latest"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gives two archives")
	}
	if err := os.WriteFile(file, first.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := oci.OpenArchive(file, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img, true)
	if _, err := oci.OpenArchive(file, "arm64"); err == nil || !strings.Contains(err.Error(), "there is: linux/amd64") {
		t.Errorf("OpenArchive for arm64: %v, want an error", err)
	}

	docker := filepath.Join(dir, "a.tar")
	ref, err := name.ParseReference("localhost/a:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, ref, img); err != nil {
		t.Fatal(err)
	}
	if got, err = oci.OpenArchive(docker, "amd64"); err != nil {
		t.Fatal(err)
	}
	same(t, got, img, false)
	again, err := oci.OpenArchive(docker, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	same(t, again, got, true)
	if _, err := oci.OpenArchive(docker, "arm64"); err == nil || !strings.Contains(err.Error(), "none for linux/arm64") {
		t.Errorf("OpenArchive for arm64: %v, want an error", err)
	}

	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(first.Bytes()); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"compressed": packed.Bytes(), "no index.json": make([]byte, 1024), "": []byte("text")} {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := oci.OpenArchive(file, "amd64"); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), file) {
			t.Errorf("OpenArchive: %v, want an error with %q and the file", err, name)
		}
	}
}

func TestNew(t *testing.T) {
	data := []byte("layer")
	h := sha256.Sum256(data)
	img, err := oci.New(v1.ConfigFile{OS: "linux", Architecture: "amd64"}, oci.PlainLayer{
		Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h[:])}, Size: int64(len(data)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil || len(m.Layers) != 1 || m.Layers[0].Size != 5 {
		t.Errorf("manifest %+v, %v, want one layer", m, err)
	}
	if got := plainSums(t, img); got != hex.EncodeToString(h[:]) {
		t.Errorf("layer %s, want %x", got, h)
	}
}

// serve starts a registry with an image, in an index with one for another machine, and
// returns where the two are.
func serve(t *testing.T, img v1.Image) (server *httptest.Server, image, index imagename.Source) {
	t.Helper()
	server = httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(tag string, write func(name.Reference) error) {
		ref, err := name.ParseReference(host + "/a/b:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := write(ref); err != nil {
			t.Fatal(err)
		}
	}
	push("image", func(r name.Reference) error { return remote.Write(r, img) })
	all := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: sample(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	push("index", func(r name.Reference) error { return remote.WriteIndex(r, all) })
	source := func(d v1.Hash, err error) imagename.Source {
		if err != nil {
			t.Fatal(err)
		}
		return imagename.Source{Registry: host, Repository: "a/b", Digest: d.String()}
	}
	return server, source(img.Digest()), source(all.Digest())
}

func TestPull(t *testing.T) {
	img, cache := sample(t), t.TempDir()
	server, image, index := serve(t, img)
	for _, s := range []imagename.Source{image, index} {
		got, err := oci.Pull(t.Context(), s, "amd64", cache)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, img, true)
	}
	if _, err := oci.Pull(t.Context(), index, "riscv64", cache); err == nil || !strings.Contains(err.Error(), "none for linux/riscv64") {
		t.Errorf("Pull for riscv64: %v, want an error", err)
	}
	unknown := image
	unknown.Digest = "sha256:" + strings.Repeat("0", 64)
	if _, err := oci.Pull(t.Context(), unknown, "amd64", cache); err == nil || !strings.Contains(err.Error(), unknown.String()) {
		t.Errorf("Pull of what is not there: %v, want an error with its name", err)
	}

	// Without the registry, from the cache; and not when that is spoilt.
	server.Close()
	if got, err := oci.Pull(t.Context(), index, "amd64", cache); err != nil {
		t.Error(err)
	} else if _, err := got.RawConfigFile(); err != nil {
		t.Error(err)
	}
	found, err := filepath.Glob(filepath.Join(cache, "image-*"))
	if err != nil || len(found) != 2 {
		t.Fatalf("the cache has %v, %v, want two images", found, err)
	}
	for _, f := range found {
		text, err := json.Marshal(map[string][]byte{"top": []byte("{}"), "manifest": []byte("{}"), "config": []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := oci.Pull(t.Context(), index, "amd64", cache); err == nil {
		t.Error("Pull takes a spoilt image from the cache")
	}
}

// A registry on another machine is not talked to in the clear.
func TestPullInTheClear(t *testing.T) {
	asked := 0
	through := oci.SecureTransport(roundTrip(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, errors.New("asked")
	}))
	for url, want := range map[string]int{
		"http://10.0.0.1:5000/v2/": 0, "http://registry.local/v2/": 0, "http://registry.example.com/": 0,
		"https://10.0.0.1:5000/v2/": 1, "http://localhost:5000/v2/": 1, "http://127.0.0.1/": 1, "http://[::1]:1/": 1,
	} {
		asked = 0
		r, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = through.RoundTrip(r)
		if asked != want || err == nil || want == 0 && !strings.Contains(err.Error(), "does not speak https") {
			t.Errorf("%s: asked %d times, %v, want %d", url, asked, err, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzArchive opens anything as an archive.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, file := range []struct{ name, text string }{
		{"index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}`},
		{"blobs/sha256/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "{}"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Size: int64(len(file.text)), Mode: 0o644}); err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, file.text); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(dir, "archive")
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := oci.OpenArchive(file, "amd64")
		if err != nil {
			return
		}
		_, _ = img.Layers()
		_, _ = img.ConfigFile()
	})
}
