// Package s3store keeps a repository in a bucket of Amazon S3, or of what speaks its protocol.
//
// [Open] takes an address s3://BUCKET/PREFIX and gives a [repository.Store]. Endpoint, region and
// credentials come from where Amazon's own tools have them: the environment
// (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), the shared credentials
// file, or the machine's role. Files are labelled for caches, so that a CDN may stand before the
// bucket; devices read it over plain HTTP.
//
// S3 has no locks that go with their holder. Instead every write is conditional: a file that
// never changes is written only if it is not there, timestamp.json only if it is the one that
// was read. So of two publishers the slower one gets repository.ErrLocked, and has changed nothing
// that a reader sees. A store that does not heed conditions is refused.
//
// A [Bucket] may be used by several goroutines.
package s3store

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/OSInside/eos/internal/repository"
)

// Scheme begins the address of a repository in a bucket.
const Scheme = "s3://"

// A Bucket is a [repository.Store].
type Bucket struct {
	client *minio.Client
	name   string
	prefix string // empty, or ends in a slash

	mu   sync.Mutex
	etag string // of the timestamp.json that was read or written last; empty: there was none
}

var _ repository.Store = (*Bucket)(nil)

// lockName is an object that only shows that conditions are heeded.
const lockName = ".lock"

// partSize is how many bytes are sent, and held in memory, at a time.
const partSize = 16 << 20

// Open reads an address s3://BUCKET/PREFIX. The endpoint, the region and the credentials
// come from where Amazon's tools have them.
func Open(address string) (*Bucket, error) {
	rest := strings.TrimPrefix(address, Scheme)
	name, prefix, _ := strings.Cut(rest, "/")
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	if name == "" || strings.ContainsAny(rest, "?#") || !fs.ValidPath(strings.TrimSuffix(name+"/"+prefix, "/")) {
		return nil, fmt.Errorf("repository address %q: want s3://BUCKET or s3://BUCKET/PREFIX", address)
	}
	endpoint, secure := "s3.amazonaws.com", true
	for _, v := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		s := os.Getenv(v)
		if s == "" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("%s is %q: want http://HOST:PORT or https://HOST:PORT", v, s)
		}
		endpoint, secure = u.Host, u.Scheme == "https"
	}
	region := os.Getenv("AWS_REGION")
	if region == "" {
		region = os.Getenv("AWS_DEFAULT_REGION")
	}
	client, err := minio.New(endpoint, &minio.Options{
		Secure: secure, Region: region,
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: http.DefaultClient},
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", address, err)
	}
	return &Bucket{client: client, name: name, prefix: prefix}, nil
}

// String implements [repository.Store].
func (b *Bucket) String() string { return Scheme + path.Join(b.name, b.prefix) }

// httpStatus returns the HTTP status an error of the client stands for, or 0.
func httpStatus(err error) int {
	var e minio.ErrorResponse
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

// Init implements [repository.Store].
func (b *Bucket) Init(ctx context.Context) error {
	ok, err := b.client.BucketExists(ctx, b.name)
	if err == nil && !ok {
		err = fmt.Errorf("no such bucket: %w", fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("make repository %s: %w", b, err)
	}
	for o := range b.client.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix}) {
		if o.Err != nil {
			return fmt.Errorf("make repository %s: %w", b, o.Err)
		}
		if name := strings.TrimSuffix(strings.TrimPrefix(o.Key, b.prefix), "/"); !repository.Belongs(name) {
			return fmt.Errorf("make repository %s: %w: it holds %s", b, repository.ErrNotRepository, name)
		}
	}
	return nil
}

// Open implements [repository.Store].
func (b *Bucket) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == repository.TimestampName {
		return b.openTimestamp(ctx)
	}
	body, _, err := b.get(ctx, name)
	return body, err
}

func (b *Bucket) get(ctx context.Context, name string) (io.ReadCloser, string, error) {
	// Core, because one request is enough.
	body, info, _, err := minio.Core{Client: b.client}.GetObject(ctx, b.name, b.prefix+name, minio.GetObjectOptions{})
	if httpStatus(err) == http.StatusNotFound {
		err = fmt.Errorf("%s/%s: %w", b, name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, "", err
	}
	return body, info.ETag, nil
}

// openTimestamp reads the file that writing it goes by. A store that keeps content and ETag apart, as
// the Versity gateway does on some file systems, gives the old content with the new ETag for as long as
// somebody writes, and the other publisher's work would be lost. So the two have to belong together:
// the ETag is the MD5 of the content, as it is in most stores, or the answer stays the same for a while.
func (b *Bucket) openTimestamp(ctx context.Context) (io.ReadCloser, error) {
	var content []byte
	var etag string
	var since time.Time // etag and content have been the same
	for deadline := time.Now().Add(3 * settled); time.Now().Before(deadline); {
		body, tag, err := b.get(ctx, repository.TimestampName)
		if err != nil {
			b.remember("")
			return nil, err
		}
		now, err := io.ReadAll(io.LimitReader(body, maxTimestamp))
		if err = errors.Join(err, body.Close()); err != nil {
			return nil, err
		}
		if tag != etag || !bytes.Equal(now, content) {
			content, etag, since = now, tag, time.Now()
		}
		if sum := md5.Sum(now); tag == hex.EncodeToString(sum[:]) || time.Since(since) > settled {
			b.remember(tag)
			return io.NopCloser(bytes.NewReader(now)), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settled / 10):
		}
	}
	return nil, fmt.Errorf("read %s/%s: %w: it changes all the time", b, repository.TimestampName, repository.ErrLocked)
}

// settled is how long content and an ETag that is not its MD5 have to stay the same before they are taken
// to belong together. It is long beside the time in which a store writes a small file.
const settled = 2 * time.Second

// maxTimestamp is more than any timestamp.json has.
const maxTimestamp = 1 << 20

func (b *Bucket) remember(etag string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.etag = etag
}

// Put implements [repository.Store].
func (b *Bucket) Put(ctx context.Context, name string, r io.Reader) error {
	opts := minio.PutObjectOptions{
		ContentType: repository.ContentType(name), CacheControl: repository.CacheControl(name),
		PartSize: partSize,
	}
	if name != repository.TimestampName {
		opts.SetMatchETagExcept("*")
	} else if b.mu.Lock(); b.etag != "" {
		opts.SetMatchETag(b.etag)
		b.mu.Unlock()
	} else {
		opts.SetMatchETagExcept("*")
		b.mu.Unlock()
	}
	// What fits into one part goes in one request, with its length.
	size := int64(-1)
	var head bytes.Buffer
	switch n, err := io.CopyN(&head, r, partSize); {
	case err == io.EOF:
		size, r = n, &head
	case err != nil:
		return fmt.Errorf("write %s: %w", name, err)
	default:
		r = io.MultiReader(&head, r)
	}
	info, err := b.client.PutObject(ctx, b.name, b.prefix+name, r, size, opts)
	switch httpStatus(err) {
	case http.StatusPreconditionFailed, http.StatusConflict:
		err = fmt.Errorf("%w: it has written this meanwhile", repository.ErrLocked)
	}
	if err != nil {
		return fmt.Errorf("write %s/%s: %w", b, name, err)
	}
	if name == repository.TimestampName {
		b.remember(info.ETag)
	}
	return nil
}

// List implements [repository.Store].
func (b *Bucket) List(ctx context.Context, prefix string) ([]repository.Entry, error) {
	var entries []repository.Entry
	for o := range b.client.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + prefix + "/", Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("list %s/%s: %w", b, prefix, o.Err)
		}
		if name := strings.TrimPrefix(o.Key, b.prefix); !strings.HasSuffix(name, "/") {
			entries = append(entries, repository.Entry{Name: name, Size: o.Size, ModTime: o.LastModified})
		}
	}
	slices.SortFunc(entries, func(a, b repository.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Remove implements [repository.Store].
func (b *Bucket) Remove(ctx context.Context, name string) error {
	if err := b.client.RemoveObject(ctx, b.name, b.prefix+name, minio.RemoveObjectOptions{}); err != nil && httpStatus(err) != http.StatusNotFound {
		return fmt.Errorf("remove %s/%s: %w", b, name, err)
	}
	return nil
}

// Lock makes sure that the store heeds conditions, by which publishers are kept apart, and
// takes no lock: the slower one of two fails in Put.
func (b *Bucket) Lock(ctx context.Context) (func() error, error) {
	unlock := func() error { return nil }
	for range 2 {
		opts := minio.PutObjectOptions{}
		opts.SetMatchETagExcept("*")
		_, err := b.client.PutObject(ctx, b.name, b.prefix+lockName, strings.NewReader(""), 0, opts)
		if httpStatus(err) == http.StatusPreconditionFailed {
			return unlock, nil
		}
		if err != nil {
			return nil, fmt.Errorf("lock repository %s: %w", b, err)
		}
		// It was not there. Now it is, and may not be written a second time.
	}
	return nil, fmt.Errorf("lock repository %s: %w", b, errUnconditional)
}

// errUnconditional says that a store overwrites whatever it is told.
var errUnconditional = errors.New("this store does not heed If-None-Match, so that two publishers could undo each other's work")
