package repository

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// instead answers requests for names that end in suffix.
func instead(suffix string, h http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, suffix) {
				h(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	block := []byte(strings.Repeat("{", 64<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func short(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "300")
	fmt.Fprint(w, `{"signed":`)
}

func page(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "<!DOCTYPE html><title>Please log in</title>")
}

func stall(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// file serves other content under a name.
func file(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }
}

// TestAttacks tampers with a repository of two versions in one way at a time.
// Everything a device does must end with the right kind of error.
func TestAttacks(t *testing.T) {
	stranger := newSite(t)
	stranger.publish(stranger.slot("1"))
	stranger.publish(stranger.slot("2"))
	strange := func(name string) string { return filepath.Join(stranger.dir, "metadata", name) }

	s := newSite(t)
	s.publish(s.slot("1"))
	old := filepath.Join(t.TempDir(), "timestamp.json")
	if b, err := os.ReadFile(filepath.Join(s.dir, "metadata/timestamp.json")); err != nil || os.WriteFile(old, b, 0o644) != nil {
		t.Fatal(err)
	}
	s.publish(s.slot("2"))
	of := func(name string) string { return filepath.Join(s.dir, "metadata", name) }
	const day = 24 * time.Hour

	for _, test := range []struct {
		name  string
		wrap  func(http.Handler) http.Handler
		tweak func(*Client)
		want  error
	}{
		{"nothing", nil, nil, nil},
		{"floors just met", nil, func(c *Client) { c.Floors = Floors{1, 2, 2, 2} }, nil},
		{"rollback to an old timestamp", instead("timestamp.json", file(old)), func(c *Client) { c.Floors = Floors{1, 2, 2, 2} }, ErrRollback},
		{"rollback, snapshot floor", nil, func(c *Client) { c.Floors = Floors{1, 2, 3, 2} }, ErrRollback},
		{"rollback, targets floor", nil, func(c *Client) { c.Floors = Floors{1, 2, 2, 3} }, ErrRollback},
		{"newer root held back", nil, func(c *Client) { c.Floors = Floors{2, 2, 2, 2} }, ErrRollback},
		{"frozen timestamp", nil, func(c *Client) { c.Now = func() time.Time { return start.Add(8 * day) } }, ErrExpired},
		{"expired root", nil, func(c *Client) { c.Now = func() time.Time { return start.Add(400 * day) } }, ErrExpired},
		{"other root trusted", nil, func(c *Client) { c.RootJSON = stranger.root }, ErrUntrusted},
		{"root is garbage", nil, func(c *Client) { c.RootJSON = []byte("<html>") }, ErrUntrusted},
		{"next root signed by a stranger", instead("/2.root.json", file(strange("1.root.json"))), nil, ErrUntrusted},
		{"next root is the same again", instead("/2.root.json", file(of("1.root.json"))), nil, ErrUntrusted},
		{"next root is a page", instead("/2.root.json", page), nil, ErrUntrusted},
		{"next root endless", instead("/2.root.json", endless), nil, ErrTooLarge},
		{"next root forbidden, as a bucket without a list says absent", instead("/2.root.json", status(403)), nil, nil},
		{"everything forbidden", instead("", status(403)), nil, ErrUnreachable},
		{"timestamp of a stranger", instead("timestamp.json", file(strange("timestamp.json"))), nil, ErrUntrusted},
		{"snapshot of a stranger", instead("2.snapshot.json", file(strange("2.snapshot.json"))), nil, ErrUntrusted},
		{"targets of a stranger", instead("2.targets.json", file(strange("2.targets.json"))), nil, ErrUntrusted},
		{"mix and match: old snapshot", instead("2.snapshot.json", file(of("1.snapshot.json"))), nil, ErrUntrusted},
		{"mix and match: old targets", instead("2.targets.json", file(of("1.targets.json"))), nil, ErrUntrusted},
		{"targets as timestamp", instead("timestamp.json", file(of("2.targets.json"))), nil, ErrUntrusted},
		{"timestamp is a page", instead("timestamp.json", page), nil, ErrUntrusted},
		{"timestamp is null", instead("timestamp.json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "null") }), nil, ErrUntrusted},
		{"timestamp is empty", instead("timestamp.json", func(http.ResponseWriter, *http.Request) {}), nil, ErrUntrusted},
		{"timestamp endless", instead("timestamp.json", endless), nil, ErrTooLarge},
		{"snapshot endless", instead("snapshot.json", endless), nil, ErrTooLarge},
		{"targets endless", instead("targets.json", endless), nil, ErrTooLarge},
		{"timestamp truncated", instead("timestamp.json", short), nil, ErrTruncated},
		{"targets truncated", instead("targets.json", short), nil, ErrTruncated},
		{"timestamp stalls", instead("timestamp.json", stall), func(c *Client) { c.Stall = 50 * time.Millisecond }, ErrUnreachable},
		{"timestamp missing", instead("timestamp.json", status(404)), nil, ErrUnreachable},
		{"targets missing", instead("targets.json", status(404)), nil, ErrUnreachable},
		{"server broken", instead("", status(503)), nil, ErrUnreachable},
		{"not a repository", instead("", status(404)), nil, ErrUnreachable},
		{"redirect loop", instead("timestamp.json", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}), nil, ErrUnreachable},
		{"everything redirected to a page", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/login" {
					page(w, r)
					return
				}
				http.Redirect(w, r, "/login", http.StatusFound)
			})
		}, nil, ErrUntrusted},
		{"redirects to another folder", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, "/cdn/") {
					http.Redirect(w, r, "/cdn"+r.URL.Path, http.StatusFound)
					return
				}
				http.StripPrefix("/cdn", next).ServeHTTP(w, r)
			})
		}, nil, nil},
		{"index of other content", instead(".index", file(of("2.targets.json"))), nil, ErrTooLarge},
		{"index changed", instead(".index", filled("index")), nil, ErrUntrusted},
		{"index endless", instead(".index", endless), nil, ErrTooLarge},
		{"index truncated", instead(".index", short), nil, ErrTruncated},
		{"index missing", instead(".index", status(404)), nil, ErrUnreachable},
		{"manifest changed", instead(".manifest", filled("manifest")), nil, ErrUntrusted},
		{"manifest is a page", instead(".manifest", page), nil, ErrTruncated},
		{"blob missing", instead(".blob", status(404)), nil, ErrUnreachable},
		{"blob is a page", instead(".blob", page), nil, ErrUntrusted},
		{"blob truncated", instead(".blob", func(w http.ResponseWriter, r *http.Request) {
			asked := strings.TrimPrefix(r.Header.Get("Range"), "bytes=")
			var first, last int
			fmt.Sscanf(asked, "%d-%d", &first, &last)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %s/%d", asked, blobSize))
			w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
			w.WriteHeader(http.StatusPartialContent)
		}), nil, ErrTruncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(wrapped(test.wrap, s.dir))
			defer server.Close()
			c := s.client(server)
			if test.tweak != nil {
				test.tweak(c)
			}
			err := everything(t.Context(), c)
			if !errors.Is(err, test.want) {
				t.Fatalf("device = %v, want %v", err, test.want)
			}
			var e *ClientError
			if test.want != nil && (!errors.As(err, &e) || e.What == "" || strings.Contains(err.Error(), "\n")) {
				t.Errorf("device = %q (%T), want a ClientError that names the file", err, err)
			}
			for _, other := range []error{ErrUnreachable, ErrUntrusted, ErrExpired, ErrRollback, ErrTooLarge, ErrTruncated} {
				if other != test.want && errors.Is(err, other) {
					t.Errorf("device = %v, which is also %v", err, other)
				}
			}
		})
	}
}

const blobSize = 303104 + 4096

// filled answers with a file of the right size and other content.
func filled(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		size := 4096
		if kind == "index" {
			size = 64 + 40
			for range indexChunks.Load() {
				size += 40
			}
		}
		w.Write(chunktest.Data(9, size))
	}
}

// indexChunks is the number of chunks of version 2's index.
var indexChunks atomic.Int64

func wrapped(wrap func(http.Handler) http.Handler, dir string) http.Handler {
	var h http.Handler = http.FileServer(http.Dir(dir))
	if wrap != nil {
		h = wrap(h)
	}
	return h
}

// everything does what a device does, and returns the first error.
func everything(ctx context.Context, c *Client) error {
	cat, floors, err := c.Refresh(ctx)
	if err != nil {
		if floors != c.Floors {
			return fmt.Errorf("floors moved to %+v with the error %w", floors, err)
		}
		return err
	}
	img, ok := cat.Latest("eos", "qemu", "amd64", Stable)
	if !ok {
		return errors.New("nothing for the device")
	}
	if _, err := c.Manifest(ctx, img); err != nil {
		return err
	}
	indexChunks.Store((img.Index.Length - 104) / 40)
	x, err := c.OpenIndex(ctx, img)
	if err != nil {
		return err
	}
	f := c.Fetcher(img)
	defer f.Close()
	dev := &chunktest.Device{Bytes: make([]byte, x.Size()), CutAt: -1}
	_, err = chunk.Assemble(ctx, dev, x, nil, f, chunk.Options{})
	return err
}

// TestRecovers holds that faults which pass are not errors.
func TestRecovers(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	for _, code := range []int{500, 502, 503, 429, 408} {
		var n atomic.Int64
		server := s.serve(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%2 == 1 {
					w.WriteHeader(code)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		if err := everything(t.Context(), s.client(server)); err != nil {
			t.Errorf("every second answer %d: %v, want no error", code, err)
		}
	}
	server := s.serve(nil)
	server.Close()
	c := s.client(server)
	c.HTTP = nil
	if err := everything(t.Context(), c); !errors.Is(err, ErrUnreachable) || !IsTransport(err) {
		t.Errorf("no server: %v, want %v", err, ErrUnreachable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := everything(ctx, s.client(s.serve(nil))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want %v", err, context.Canceled)
	}
	for _, address := range []string{"", "repo", "ftp://host/", "http://", "http://h/?q", "http://h/#f", "http://[::1"} {
		if _, _, err := (&Client{BaseURL: address, RootJSON: s.root}).Refresh(t.Context()); err == nil {
			t.Errorf("Refresh(%q) = no error", address)
		}
	}
}

// nextRoot makes version 2 of the root with change applied, signed by signers.
func (s *site) nextRoot(change func(*metadata.RootType), signers ...ed25519.PrivateKey) {
	s.t.Helper()
	m, err := metadata.Root().FromBytes(s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	m.Signed.Version++
	change(&m.Signed)
	m.ClearSignatures()
	for _, k := range signers {
		signer, err := signature.LoadED25519Signer(k)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := m.Sign(signer); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := m.ToFile(filepath.Join(s.dir, fmt.Sprintf("metadata/%d.root.json", m.Signed.Version)), false); err != nil {
		s.t.Fatal(err)
	}
}

// exchange makes the online key of root another one.
func exchange(t *testing.T, root *metadata.RootType, fresh ed25519.PrivateKey) {
	k, err := metadata.KeyFromPublicKey(fresh.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		for _, id := range root.Roles[role].KeyIDs {
			if err := root.RevokeKey(id, role); err != nil {
				t.Fatal(err)
			}
		}
		if err := root.AddKey(k, role); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeyExchange revokes the online key after somebody signed huge versions
// with it: devices that saw those must come back.
func TestKeyExchange(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.publish(s.slot("1"))
	server := s.serve(nil)
	root, err := loadKey(s.keys, RootKey)
	if err != nil {
		t.Fatal(err)
	}
	fresh := other.key(OnlineKey)
	cache := t.TempDir()

	// The fast-forward.
	r := &Repository{store: &folder{dir: s.dir}}
	st, err := load(t.Context(), r.store)
	if err != nil {
		t.Fatal(err)
	}
	st.timestamp.Signed.Version = 1 << 60
	by, err := st.signers(s.opts.Keys, metadata.SNAPSHOT, metadata.TIMESTAMP)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.write(t.Context(), r.store, by, Expiry{}, s.now); err != nil {
		t.Fatal(err)
	}
	c := s.client(server)
	c.CacheDir = cache
	_, floors, err := c.Refresh(t.Context())
	if err != nil || floors.Timestamp != 1<<60+1 {
		t.Fatalf("Refresh = %+v, %v; want the huge version", floors, err)
	}

	// The root signed by the wrong key alone changes nothing.
	s.nextRoot(func(m *metadata.RootType) { exchange(t, m, fresh) }, fresh)
	c = s.client(server)
	if _, _, err := c.Refresh(t.Context()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("new root without the old key's signature: %v, want %v", err, ErrUntrusted)
	}

	// The real exchange: what the old key signed is worth nothing now.
	s.nextRoot(func(m *metadata.RootType) { exchange(t, m, fresh) }, root)
	c = s.client(server)
	c.CacheDir, c.Floors = cache, floors
	if _, _, err := c.Refresh(t.Context()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("timestamp of a revoked key: %v, want %v", err, ErrUntrusted)
	}

	// The publisher starts again with small numbers.
	for _, name := range []string{"timestamp.json"} {
		if err := os.Remove(filepath.Join(s.dir, "metadata", name)); err != nil {
			t.Fatal(err)
		}
	}
	opts := s.opts
	opts.Keys = Keyring{s.key(TargetsKey), fresh}
	if _, err := r.Publish(t.Context(), []string{s.slot("2")}, opts); err != nil {
		t.Fatal(err)
	}
	c = s.client(server)
	c.CacheDir, c.Floors = cache, floors
	_, after, err := c.Refresh(t.Context())
	if err != nil || after.Timestamp != 1 || after.Root != 2 {
		t.Errorf("device after the exchange = %+v, %v; want timestamp 1 under root 2", after, err)
	}
	// With the same key, the small number is a rollback.
	c = s.client(server)
	c.Floors = Floors{Root: 2, Timestamp: 7}
	if _, _, err := c.Refresh(t.Context()); !errors.Is(err, ErrRollback) {
		t.Errorf("device that saw root 2 and timestamp 7: %v, want %v", err, ErrRollback)
	}
}

// TestThreshold asks for two signatures under the targets and gives one.
func TestThreshold(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.publish(s.slot("1"))
	root, err := loadKey(s.keys, RootKey)
	if err != nil {
		t.Fatal(err)
	}
	s.nextRoot(func(m *metadata.RootType) {
		k, err := metadata.KeyFromPublicKey(other.key(TargetsKey).Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.AddKey(k, metadata.TARGETS); err != nil {
			t.Fatal(err)
		}
		m.Roles[metadata.TARGETS].Threshold = 2
	}, root)
	if _, _, err := s.client(s.serve(nil)).Refresh(t.Context()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("one signature of two: %v, want %v", err, ErrUntrusted)
	}
	r := &Repository{store: &folder{dir: s.dir}}
	if _, err := r.Publish(t.Context(), nil, s.opts); err == nil {
		t.Error("Publish with one key of two = no error")
	}
}
