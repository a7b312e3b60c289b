package s3store_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/repository/storetest"
	"github.com/OSInside/eos/internal/s3store"
	"github.com/OSInside/eos/internal/s3store/s3test"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

// admin makes a bucket that everybody may read, as one does behind a CDN.
func admin(t *testing.T, address, bucket string) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(address, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	policy := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::` + bucket + `/*"}]}`
	if err := c.SetBucketPolicy(t.Context(), bucket, policy); err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, address string) *s3store.Bucket {
	t.Helper()
	b, err := s3store.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestContract(t *testing.T) {
	admin(t, s3test.Start(t), "contract")
	storetest.Run(t, open(t, "s3://contract/some/where"), false)
	storetest.Run(t, open(t, "s3://contract/else/"), false)
}

// publisher has keys and a store.
type publisher struct {
	root []byte
	opts repository.PublishOptions
	sign ed25519.PrivateKey
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"image", "root", "targets", "online"} {
		if err := key.Generate(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	root, err := repository.NewRoot(dir, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := repository.LoadKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := key.LoadPrivate(filepath.Join(dir, "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &publisher{root, repository.PublishOptions{Keys: ring, Accepted: []ed25519.PublicKey{k.Public().Key}}, k.Key}
}

func (p *publisher) slot(t *testing.T, version string, blocks int) string {
	t.Helper()
	m := slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: version, BuildID: "b" + version, Built: 1}
	image, _ := slotimagetest.Image(t, m, blocks, 1, p.sign)
	file := filepath.Join(t.TempDir(), version+".slot")
	if err := os.WriteFile(file, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// fetch reads all that a device would of every version.
func fetch(ctx context.Context, url string, root []byte) (string, error) {
	c := &repository.Client{BaseURL: url, RootJSON: root, HTTP: &http.Client{}, Retries: -1}
	cat, _, err := c.Refresh(ctx)
	if err != nil {
		return "", err
	}
	var versions []string
	for _, img := range cat.All() {
		if _, err := c.Manifest(ctx, img); err != nil {
			return "", err
		}
		x, err := c.OpenIndex(ctx, img)
		if err != nil {
			return "", err
		}
		f := c.Fetcher(img)
		last := x.Chunks[len(x.Chunks)-1]
		r, err := f.Fetch(ctx, last.Offset, int64(last.Size))
		if err != nil {
			return "", err
		}
		n, err := io.Copy(io.Discard, r)
		if err = errors.Join(err, r.Close(), f.Close()); err != nil || n != int64(last.Size) {
			return "", fmt.Errorf("range of %d bytes: %d, %w", last.Size, n, err)
		}
		versions = append(versions, img.Version)
	}
	return strings.Join(versions, " "), nil
}

// TestPublish is the life of a repository in a bucket: devices read it from there over HTTP.
func TestPublish(t *testing.T) {
	address := s3test.Start(t)
	admin(t, address, "fleet")
	p := newPublisher(t)
	base := address + "/fleet/os"
	r, err := repository.Init(t.Context(), open(t, "s3://fleet/os"), p.root)
	if err != nil {
		t.Fatal(err)
	}
	// More than one part, so that the blob goes up in several.
	if _, err := r.Publish(t.Context(), []string{p.slot(t, "1", 9000)}, p.opts); err != nil {
		t.Fatal(err)
	}
	testing := p.opts
	testing.Channel = repository.Testing
	if _, err := r.Publish(t.Context(), []string{p.slot(t, "2", 30)}, testing); err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(t.Context(), base, p.root); got != "1 2" || err != nil {
		t.Fatalf("a device sees %q, %v; want 1 2", got, err)
	}
	for name, want := range map[string]string{"timestamp.json": "no-cache", "1.root.json": "public, max-age=31536000, immutable"} {
		res, err := http.Get(base + "/metadata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Cache-Control"); got != want || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: Cache-Control %q, Content-Type %q; want %q, JSON", name, got, res.Header.Get("Content-Type"), want)
		}
	}
	// Another process, or machine: nothing is remembered but what is in the bucket.
	r, err = repository.Open(t.Context(), open(t, "s3://fleet/os"))
	if err != nil {
		t.Fatal(err)
	}
	if _, moved, err := r.Promote(t.Context(), "eos", "", "2", repository.Stable, p.opts); err != nil || len(moved) != 1 {
		t.Errorf("Promote = %v, %v", moved, err)
	}
	prune := repository.PruneOptions{PublishOptions: p.opts, Keep: 1}
	if done, err := r.Prune(t.Context(), prune); err != nil || len(done.Images) != 1 || done.Files != 0 {
		t.Errorf("Prune = %+v, %v; want version 1 to go", done, err)
	}
	if _, err := r.Refresh(t.Context(), p.opts); err != nil {
		t.Errorf("Refresh = %v", err)
	}
	prune.Now = func() time.Time { return time.Now().Add(2 * repository.PruneGrace) }
	if done, err := r.Prune(t.Context(), prune); err != nil || done.Files < 3 {
		t.Errorf("Prune later = %+v, %v; want the files of version 1 to go", done, err)
	}
	if got, err := fetch(t.Context(), base, p.root); got != "2" || err != nil {
		t.Errorf("in the end a device sees %q, %v; want 2", got, err)
	}
	if rep, err := r.Verify(t.Context(), repository.VerifyOptions{Accepted: p.opts.Accepted}); err != nil || len(rep.Problems) > 0 || rep.Files != 3 {
		t.Errorf("Verify = %+v, %v", rep, err)
	}
}

// TestPublishers lets one publisher overtake another one, and then several publish at once. The
// slower ones are told to come again, and nobody's image is lost.
func TestPublishers(t *testing.T) {
	address := s3test.Start(t)
	admin(t, address, "fleet")
	p := newPublisher(t)
	slow, err := repository.Init(t.Context(), open(t, "s3://fleet"), p.root)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(version string) error {
		r, err := repository.Open(t.Context(), open(t, "s3://fleet"))
		if err == nil {
			_, err = r.Publish(t.Context(), []string{p.slot(t, version, 30)}, p.opts)
		}
		return err
	}
	overtaken := p.opts
	overtaken.Progress = hook(func(stage string) {
		if strings.HasPrefix(stage, "copy") {
			if err := publish("1"); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := slow.Publish(t.Context(), []string{p.slot(t, "2", 30)}, overtaken); !errors.Is(err, repository.ErrLocked) {
		t.Errorf("the slower publisher: %v, want %v", err, repository.ErrLocked)
	}
	if got, err := fetch(t.Context(), address+"/fleet", p.root); got != "1" || err != nil {
		t.Errorf("a device sees %q, %v; want 1", got, err)
	}
	var wg sync.WaitGroup
	for _, version := range []string{"2", "3", "4"} {
		wg.Go(func() {
			err := publish(version)
			for errors.Is(err, repository.ErrLocked) {
				err = publish(version)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := fetch(t.Context(), address+"/fleet", p.root); got != "1 2 3 4" || err != nil {
		t.Errorf("a device sees %q, %v; want 1 2 3 4", got, err)
	}
}

// TestApart reads from stores whose content and ETag do not come from the same moment.
func TestApart(t *testing.T) {
	tag := func(content string) string {
		sum := md5.Sum([]byte(content))
		return hex.EncodeToString(sum[:])
	}
	var reads int
	var answer func(reads int) (content, etag string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reads++
		content, etag := answer(reads)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"`+etag+`"`)
		_, _ = io.WriteString(w, content)
	}))
	defer server.Close()
	for name, value := range map[string]string{"AWS_ENDPOINT_URL": server.URL, "AWS_ENDPOINT_URL_S3": "", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": ""} {
		t.Setenv(name, value)
	}
	for name, c := range map[string]struct {
		answer func(int) (string, string)
		want   string // empty: the reader is to come again
		reads  int    // at least
	}{
		"at once": {func(int) (string, string) { return "old", tag("old") }, "old", 1},
		"somebody writes": {func(n int) (string, string) {
			if n < 4 {
				return "old", tag("new")
			}
			return "new", tag("new")
		}, "new", 4},
		"ETags of another kind":        {func(int) (string, string) { return "old", "CRC64NVME-x" }, "old", 5},
		"ETags like MD5 that are none": {func(int) (string, string) { return "old", tag("key") }, "old", 5},
		"never the same":               {func(n int) (string, string) { return "old", fmt.Sprint(n) }, "", 10},
	} {
		reads, answer = 0, c.answer
		var got []byte
		r, err := open(t, "s3://fleet").Open(t.Context(), repository.TimestampName)
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if c.want == "" && !errors.Is(err, repository.ErrLocked) || c.want != "" && err != nil || string(got) != c.want || reads < c.reads {
			t.Errorf("%s: after %d reads %q, %v; want %q after %d", name, reads, got, err, c.want, c.reads)
		}
	}
}

// hook is called at the beginning of each stage of a publisher.
type hook func(stage string)

func (h hook) Stage(name string, _ int64) { h(name) }
func (h hook) Add(int64)                  {}
func (h hook) Done()                      {}

// TestCut stops a publisher in the middle of a large file.
func TestCut(t *testing.T) {
	address := s3test.Start(t)
	admin(t, address, "fleet")
	b := open(t, "s3://fleet")
	if err := b.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	data := bytes.NewReader(chunktest.Data(1, 48<<20))
	err := b.Put(ctx, "targets/big", io.MultiReader(io.LimitReader(data, 40<<20), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, context.Canceled
	})))
	if err == nil {
		t.Error("Put of half a file = nil")
	}
	if files, err := b.List(t.Context(), "targets"); err != nil || len(files) != 0 {
		t.Errorf("after half a file: %v, %v; want none", files, err)
	}
}

// TestCutAtEveryRequest kills a publisher at each of its requests, before the store gets it or before
// the answer comes back. Devices see the old state or the new one, and the next publisher gets through.
func TestCutAtEveryRequest(t *testing.T) {
	address := s3test.Start(t)
	admin(t, address, "fleet")
	p := newPublisher(t)
	one, two := p.slot(t, "1", 30), p.slot(t, "2", 30)
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var left int // requests until the cut
	var after bool
	var kill context.CancelFunc
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host },
		// A connection that the store has just closed would lose a request which the test counts as delivered.
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		left--
		now, end := left, kill
		mu.Unlock()
		switch {
		case now > 0:
			forward.ServeHTTP(w, r)
			return
		case now == 0 && after:
			forward.ServeHTTP(httptest.NewRecorder(), r)
		}
		end()
		panic(http.ErrAbortHandler)
	}))
	defer way.Close()
	seen := map[string]int{}
	for _, after = range []bool{false, true} {
		for cut, done := 1, false; !done; cut++ {
			place := fmt.Sprintf("s3://fleet/%v/%d", after, cut)
			look := func() string {
				t.Helper()
				got, err := fetch(t.Context(), address+"/"+strings.TrimPrefix(place, s3store.Scheme), p.root)
				if err != nil {
					t.Fatalf("cut at request %d, after it %v: a device gets %v", cut, after, err)
				}
				return got
			}
			t.Setenv("AWS_ENDPOINT_URL", address)
			r, err := repository.Init(t.Context(), open(t, place), p.root)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Publish(t.Context(), []string{one}, p.opts); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			mu.Lock()
			left, kill = cut, cancel
			mu.Unlock()
			t.Setenv("AWS_ENDPOINT_URL", way.URL)
			r, err = repository.Open(ctx, open(t, place))
			if err == nil {
				_, err = r.Publish(ctx, []string{two}, p.opts)
			}
			cancel()
			done = err == nil
			got := look()
			seen[got]++
			if got != "1" && got != "1 2" || done && got != "1 2" {
				t.Fatalf("cut at request %d, after it %v: a device sees %q", cut, after, got)
			}
			t.Setenv("AWS_ENDPOINT_URL", address)
			if r, err = repository.Open(t.Context(), open(t, place)); err == nil {
				_, err = r.Publish(t.Context(), []string{two}, p.opts)
			}
			if got := look(); err != nil || got != "1 2" {
				t.Fatalf("cut at request %d, after it %v: the next publisher: %v, a device sees %q", cut, after, err, got)
			}
		}
	}
	if seen["1"] < 20 || seen["1 2"] < 3 { // twice all went well, and once the answer alone was lost
		t.Errorf("seen %v: the test does not cut what it should", seen)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestMistakes are those of people.
func TestMistakes(t *testing.T) {
	for _, address := range []string{"s3://", "s3:///x", "s3://b/../c", "s3://b/c?x=1"} {
		if b, err := s3store.Open(address); err == nil {
			t.Errorf("Open(%s) = %v, want an error", address, b)
		}
	}
	address := s3test.Start(t)
	c := admin(t, address, "other")
	p := newPublisher(t)
	if _, err := repository.Open(t.Context(), open(t, "s3://none")); err == nil {
		t.Error("Open of no bucket = nil")
	}
	if _, err := repository.Init(t.Context(), open(t, "s3://none"), p.root); err == nil || !strings.Contains(err.Error(), "no such bucket") {
		t.Errorf("Init of no bucket = %v", err)
	}
	if _, err := repository.Open(t.Context(), open(t, "s3://other")); !errors.Is(err, repository.ErrNotRepository) {
		t.Errorf("Open of an empty bucket = %v, want %v", err, repository.ErrNotRepository)
	}
	if _, err := c.PutObject(t.Context(), "other", "holiday/photo.jpg", strings.NewReader("x"), 1, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := repository.Init(t.Context(), open(t, "s3://other"), p.root); !errors.Is(err, repository.ErrNotRepository) {
		t.Errorf("Init of a bucket with photos = %v, want %v", err, repository.ErrNotRepository)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if _, err := repository.Init(t.Context(), open(t, "s3://other/new"), p.root); err == nil {
		t.Error("Init with a wrong secret = nil")
	}
	t.Setenv("AWS_ENDPOINT_URL", "127.0.0.1:1")
	if _, err := s3store.Open("s3://b"); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL") {
		t.Errorf("Open with a bad endpoint = %v", err)
	}
}
