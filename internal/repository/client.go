package repository

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/slotimage"
)

// Limits on what a client reads, whatever a server sends.
const (
	maxRoot      = 256 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 256 << 10
	maxTargets   = 4 << 20
	maxRoots     = 64 // root rotations followed in one Refresh
)

// Floors are the versions of metadata seen before. Older ones are refused. The
// caller keeps them across reboots.
type Floors struct {
	Root      int64 `json:"root"`
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
}

// A Client reads a repository over HTTP, as a device does. Its fields are set
// before the first call and not changed after it. Calls may come from several
// goroutines.
type Client struct {
	// BaseURL is the repository's address, http or https.
	BaseURL string
	// HTTP sends the requests. Nil means a client with system certificates,
	// the proxy of the environment, and limits on waiting.
	HTTP *http.Client
	// TLS is for https where HTTP is nil. Nil means the system's authorities and
	// no certificate.
	TLS *tls.Config
	// RootJSON is the root metadata that trust begins with.
	RootJSON []byte
	// CacheDir keeps metadata between calls, so that unchanged files are not
	// fetched again. It is only a cache: what it holds is verified. Empty
	// means none.
	CacheDir string
	// Now is the clock for expiry. Nil means the system's.
	Now func() time.Time
	// Floors are what an earlier Refresh returned.
	Floors Floors
	// LimitRate bounds the bytes per second of everything. Zero means no
	// limit.
	LimitRate int64
	// Retries is how often a request that brought nothing is repeated. Zero
	// means 5; a negative number means never.
	Retries int
	// Wait is the first pause before a repetition; it doubles, with jitter,
	// up to 30 times this. Zero means one second.
	Wait time.Duration
	// Stall is how long a server may send nothing. Zero means 30 s.
	Stall time.Duration

	once  sync.Once
	err   error // of the set-up
	http  *http.Client
	base  *url.URL
	meter *transport
}

// Traffic is what a client has asked for and got so far, redirects included,
// headers not.
type Traffic struct {
	Requests int64 `json:"requests"`
	Bytes    int64 `json:"bytes"`
}

// Traffic returns the client's traffic up to now.
func (c *Client) Traffic() Traffic {
	if c.setup() != nil {
		return Traffic{}
	}
	return Traffic{Requests: c.meter.requests.Load(), Bytes: c.meter.bytes.Load()}
}

func (c *Client) setup() error {
	c.once.Do(func() {
		u, err := url.Parse(c.BaseURL)
		switch {
		case err != nil:
		case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			err = errors.New("want http://HOST/PATH or https://HOST/PATH")
		case u.RawQuery != "" || u.Fragment != "":
			err = errors.New("query or fragment in it")
		}
		if err != nil {
			c.err = fmt.Errorf("repository address %q: %w", c.BaseURL, err)
			return
		}
		c.base = u
		if c.Now == nil {
			c.Now = time.Now
		}
		if c.Retries == 0 {
			c.Retries = 5
		}
		if c.Wait <= 0 {
			c.Wait = time.Second
		}
		if c.Stall <= 0 {
			c.Stall = 30 * time.Second
		}
		base := c.HTTP
		if base == nil {
			base = &http.Client{Transport: newTransport(c.Stall, c.TLS)}
		}
		c.meter = &transport{next: base.Transport, limit: newLimiter(c.LimitRate)}
		if c.meter.next == nil {
			c.meter.next = http.DefaultTransport
		}
		hc := *base
		hc.Transport = c.meter
		if hc.CheckRedirect == nil {
			hc.CheckRedirect = checkRedirect
		}
		c.http = &hc
	})
	return c.err
}

// Refresh fetches and verifies the metadata and returns what the repository
// offers, together with the floors to keep. With an error, the floors are
// those the client was given. Errors are [*ClientError], or the context's.
func (c *Client) Refresh(ctx context.Context) (*Catalog, Floors, error) {
	got, err := c.fetchMetadata(ctx)
	if err != nil {
		return nil, c.Floors, err
	}
	return newCatalog(got.targets), got.versions, nil
}

// fetched is metadata that has been verified.
type fetched struct {
	targets  map[string]*metadata.TargetFiles
	versions Floors
	files    map[string][]byte // that were asked for, by name; what the cache had is not among them
}

func (c *Client) fetchMetadata(ctx context.Context) (*fetched, error) {
	if err := c.setup(); err != nil {
		return nil, err
	}
	cfg, err := config.New(c.address("metadata"), c.RootJSON)
	if err != nil {
		return nil, fmt.Errorf("repository address %q: %w", c.BaseURL, err)
	}
	f := &metadataFetcher{ctx: ctx, c: c, files: map[string][]byte{}}
	cfg.Fetcher = f
	cfg.MaxRootRotations = maxRoots
	cfg.MaxDelegations = 0
	cfg.RootMaxLength, cfg.TimestampMaxLength = maxRoot, maxTimestamp
	cfg.SnapshotMaxLength, cfg.TargetsMaxLength = maxSnapshot, maxTargets
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = c.CacheDir, c.CacheDir
	if c.CacheDir == "" {
		// The library reads its cache also when told not to; here it finds
		// nothing, instead of files of the working folder.
		cfg.DisableLocalCache = true
		cfg.LocalMetadataDir = os.DevNull
	}
	u, err := updater.New(cfg)
	if err != nil {
		return nil, classify("trusted root metadata", err)
	}
	u.UnsafeSetRefTime(c.Now().UTC()) // unsafe for those who pass a wrong clock
	if err := refresh(u); err != nil {
		return nil, classify(f.last(), err)
	}
	set := u.GetTrustedMetadataSet()
	seen := Floors{
		Root: set.Root.Signed.Version, Timestamp: set.Timestamp.Signed.Version,
		Snapshot: set.Snapshot.Signed.Version, Targets: set.Targets[metadata.TARGETS].Signed.Version,
	}
	if err := c.compareFloors(seen, set.Root, f.files); err != nil {
		return nil, err
	}
	return &fetched{set.Targets[metadata.TARGETS].Signed.Targets, seen, f.files}, nil
}

// refresh turns a panic of the library into an error: it trusts signed metadata
// to be complete, and a stolen online key can sign metadata that is not.
func refresh(u *updater.Updater) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("incomplete metadata: %v", v)
		}
	}()
	return u.Refresh()
}

// compareFloors refuses metadata older than what was seen before.
func (c *Client) compareFloors(seen Floors, root *metadata.Metadata[metadata.RootType], files map[string][]byte) error {
	check := func(what string, got, floor int64) error {
		if got >= floor {
			return nil
		}
		return &ClientError{Kind: ErrRollback, What: what, Err: fmt.Errorf("version %d, seen before: %d", got, floor)}
	}
	if err := check("root.json", seen.Root, c.Floors.Root); err != nil {
		return err
	}
	if c.keysChanged(root, files) {
		// Whoever had the old online key may have signed huge version numbers
		// to lock devices out. The new key starts anew; the root that brought
		// it is signed and cannot be rolled back itself.
		return nil
	}
	return cmp.Or(
		check("timestamp.json", seen.Timestamp, c.Floors.Timestamp),
		check("snapshot.json", seen.Snapshot, c.Floors.Snapshot),
		check("targets.json", seen.Targets, c.Floors.Targets),
	)
}

// keysChanged says whether the online keys are others than when the floors
// were taken. If that is not known, they are taken to be the same.
func (c *Client) keysChanged(now *metadata.Metadata[metadata.RootType], files map[string][]byte) bool {
	if c.Floors.Root == 0 || c.Floors.Root >= now.Signed.Version {
		return false
	}
	raw := files[versioned(metadata.ROOT, c.Floors.Root)]
	if raw == nil {
		raw = c.RootJSON
	}
	then, err := metadata.Root().FromBytes(raw)
	if err != nil || then.Signed.Version != c.Floors.Root {
		return false
	}
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		a, b := then.Signed.Roles[role], now.Signed.Roles[role]
		if a == nil || b == nil {
			return false
		}
		// Any old key that is still good could sign the big numbers again.
		if slices.ContainsFunc(a.KeyIDs, func(id string) bool { return slices.Contains(b.KeyIDs, id) }) {
			return false
		}
	}
	return true
}

// Manifest fetches the image's slot manifest block. It is what the repository
// signed; whether the block itself is signed by an accepted key is for
// [slotimage.ParseBlock] and its Verify.
func (c *Client) Manifest(ctx context.Context, img Image) ([]byte, error) {
	if img.Manifest.Length != slotimage.BlockSize {
		return nil, &ClientError{Kind: ErrUntrusted, What: img.Manifest.Path, Err: fmt.Errorf("%d bytes", img.Manifest.Length)}
	}
	return c.file(ctx, img.Manifest)
}

// OpenIndex fetches the image's chunk index.
func (c *Client) OpenIndex(ctx context.Context, img Image) (*chunk.Index, error) {
	if img.Index.Length > chunk.MaxIndexSize {
		return nil, &ClientError{Kind: ErrTooLarge, What: img.Index.Path}
	}
	b, err := c.file(ctx, img.Index)
	if err != nil {
		return nil, err
	}
	x, err := chunk.Parse(b)
	if err != nil {
		return nil, &ClientError{Kind: ErrUntrusted, What: img.Index.Path, Err: err}
	}
	if x.Size() != img.Blob.Length {
		return nil, &ClientError{Kind: ErrUntrusted, What: img.Index.Path, Err: fmt.Errorf("it is for %d bytes, the image has %d", x.Size(), img.Blob.Length)}
	}
	return x, nil
}

// file fetches a whole file and verifies it.
func (c *Client) file(ctx context.Context, f File) ([]byte, error) {
	if err := c.setup(); err != nil {
		return nil, err
	}
	b, err := c.get(ctx, f.Path, c.address(f.url()), f.Length)
	if err != nil {
		return nil, classify(f.Path, err)
	}
	if int64(len(b)) < f.Length {
		return nil, &ClientError{Kind: ErrTruncated, What: f.Path, Err: fmt.Errorf("%d of %d bytes", len(b), f.Length)}
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, &ClientError{Kind: ErrUntrusted, What: f.Path, Err: errors.New("its SHA-256 is not the signed one")}
	}
	return b, nil
}

// address returns the URL of a file of the repository.
func (c *Client) address(name string) string { return c.base.JoinPath(name).String() }

// metadataFetcher gives go-tuf files through the client's own transport.
type metadataFetcher struct {
	ctx   context.Context
	c     *Client
	url   string
	files map[string][]byte
}

// DownloadFile implements go-tuf's Fetcher.
func (f *metadataFetcher) DownloadFile(address string, maxLength int64, _ time.Duration) ([]byte, error) {
	f.url = address
	b, err := f.c.get(f.ctx, f.last(), address, maxLength)
	if strings.HasSuffix(f.last(), ".root.json") && isAbsent(err) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: address}
	}
	if err != nil {
		return nil, err
	}
	f.files["metadata/"+f.last()] = b
	return b, nil
}

// isAbsent says whether a server has no such file. A bucket whose files, but not whose list, are
// public says that it is forbidden.
func isAbsent(err error) bool {
	var none *metadata.ErrDownloadHTTP
	var status statusError
	return errors.As(err, &none) || errors.As(err, &status) && status.status == http.StatusForbidden
}

// last names the file that was asked for last: the one an error is about.
func (f *metadataFetcher) last() string {
	return f.url[strings.LastIndexByte(f.url, '/')+1:]
}
