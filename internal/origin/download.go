package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/renameio/v2"
)

// part is what is known of a download that is not complete. It is kept beside it, so that another
// process can go on.
type part struct {
	Image        string `json:"image"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Length       int64  `json:"length"` // of the whole, -1 if the origin does not say
}

// validator is what If-Range takes, empty where a download cannot be continued.
func (p part) validator() string {
	if p.ETag != "" && !strings.HasPrefix(p.ETag, "W/") {
		return p.ETag
	}
	return p.LastModified
}

// continues says whether an answer goes on with this download at byte have. Not every server heeds
// If-Range: what it sends must not be the rest of another file.
func (p part) continues(h http.Header, have int64) error {
	text := h.Get("Content-Range")
	switch first, last, total, err := parseContentRange(text); {
	case err != nil:
		return err
	case first != have, total >= 0 && last != total-1, p.Length >= 0 && total >= 0 && total != p.Length:
		return fmt.Errorf("range %q, asked for %d to the end of %d bytes", text, have, p.Length)
	}
	for _, f := range []struct{ name, was string }{{"ETag", p.ETag}, {"Last-Modified", p.LastModified}} {
		if is := h.Get(f.name); f.was != "" && is != "" && is != f.was {
			return fmt.Errorf("%s is %q, of what is here already it was %q", f.name, is, f.was)
		}
	}
	return nil
}

// parseContentRange reads the header of a part of a file (RFC 9110, 14.4). total is -1 where the
// server does not know it.
func parseContentRange(s string) (first, last, total int64, err error) {
	total = -1
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, -1, fmt.Errorf("content range %q: want bytes FIRST-LAST/SIZE", s)
	}
	for _, n := range []struct {
		to   *int64
		text string
	}{{&first, from}, {&last, to}, {&total, size}} {
		if n.to == &total && n.text == "*" {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 63) // no sign
		if err != nil {
			return 0, 0, -1, fmt.Errorf("content range %q: %w", s, errors.Unwrap(err))
		}
		*n.to = int64(v)
	}
	if last < first || total >= 0 && last >= total {
		return 0, 0, -1, fmt.Errorf("content range %q: there is no such range", s)
	}
	return first, last, total, nil
}

const (
	partFile = "download"
	partInfo = "download.json"
)

// errUnchanged says that the origin has what we have.
var errUnchanged = errors.New("unchanged")

// maxImage bounds what is taken from an origin, compressed or not.
const maxImage = 1 << 40

// download brings the origin's file to the work folder, unless it is what the copy was made of:
// then the error is errUnchanged.
func (j *job) download(ctx context.Context) (part, error) {
	tries := 0
	p, err := backoff.Retry(ctx, func() (part, error) {
		before := j.partSize()
		p, err := j.downloadOnce(ctx)
		if err == nil || !isTemporary(err) {
			return p, permanent(err)
		}
		if j.partSize() > before {
			tries = 0 // it goes on
		}
		if tries++; tries > j.retries() {
			return p, permanent(err)
		}
		return p, err
	}, backoff.WithBackOff(j.pauses()), backoff.WithMaxElapsedTime(0))
	if cerr := ctx.Err(); err != nil && cerr != nil {
		return p, cerr
	}
	return p, err
}

func permanent(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

func (j *job) retries() int {
	if j.Retries == 0 {
		return 5
	}
	return j.Retries
}

func (j *job) pauses() backoff.BackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval = max(j.Wait, time.Millisecond)
	if j.Wait == 0 {
		p.InitialInterval = time.Second
	}
	p.MaxInterval, p.Multiplier, p.RandomizationFactor = 30*p.InitialInterval, 2, 0.5
	return p
}

// brokenError is a download that may be continued.
type brokenError struct{ error }

func (e brokenError) Unwrap() []error { return []error{ErrOrigin, e.error} }

func isTemporary(err error) bool {
	var b brokenError
	return errors.As(err, &b)
}

func (j *job) partSize() int64 {
	info, err := os.Stat(j.file(partFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// began reads what an earlier download has left.
func (j *job) began() (part, int64) {
	b, err := os.ReadFile(j.file(partInfo))
	var p part
	if err != nil || json.Unmarshal(b, &p) != nil || p.Image != j.src().Image || p.validator() == "" {
		return part{}, 0
	}
	return p, j.partSize()
}

func (j *job) downloadOnce(ctx context.Context) (part, error) {
	p, have := j.began()
	if have > 0 && have == p.Length {
		return p, nil // complete, but not made a copy of
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTime, func() { cancel(brokenError{errors.New("the origin sends nothing")}) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.src().Image, nil)
	if err != nil {
		return p, err
	}
	req.Header.Set("User-Agent", "os-update-daemon")
	req.Header.Set("Accept-Encoding", "identity")
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", p.validator())
	} else {
		if j.old.ETag != "" {
			req.Header.Set("If-None-Match", j.old.ETag)
		}
		if j.old.LastModified != "" {
			req.Header.Set("If-Modified-Since", j.old.LastModified)
		}
	}
	res, err := j.client().Do(req)
	if err != nil {
		return p, brokenError{cause(ctx, err)}
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotModified && have == 0:
		return p, errUnchanged
	case res.StatusCode == http.StatusPartialContent && have > 0:
		if err := p.continues(res.Header, have); err != nil {
			return p, errors.Join(brokenError{err}, j.discard())
		}
	case res.StatusCode == http.StatusOK:
		p = part{Image: j.src().Image, ETag: res.Header.Get("ETag"), LastModified: res.Header.Get("Last-Modified"), Length: res.ContentLength}
		if err := j.begin(p); err != nil {
			return p, err
		}
		have = 0
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return p, errors.Join(brokenError{errors.New(res.Status)}, j.discard())
	case res.StatusCode == http.StatusTooManyRequests, res.StatusCode >= 500:
		return p, brokenError{errors.New(res.Status)}
	default:
		return p, fmt.Errorf("%w: %s", ErrOrigin, res.Status)
	}
	if p.Length > maxImage {
		return p, fmt.Errorf("%w: %d bytes announced", ErrOrigin, p.Length)
	}
	if err = j.room(p.Length - have); err == nil {
		err = j.receive(ctx, res.Body, stall, p, have)
	}
	if errors.Is(err, ErrSpace) {
		err = errors.Join(err, j.discard()) // others need the room
	}
	return p, err
}

// roomEvery is how many bytes are received before the disk is looked at again: an origin need not say
// how much there is, and the disk is not ours alone.
const roomEvery = 16 << 20

// stallTime is how long an origin may send nothing.
const stallTime = time.Minute

func (j *job) receive(ctx context.Context, body io.Reader, stall *time.Timer, p part, have int64) error {
	f, err := os.OpenFile(j.file(partFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	limit := int64(maxImage)
	if p.Length >= 0 {
		limit = p.Length
	}
	looked := have
	n, err := io.Copy(f, io.LimitReader(readerFunc(func(b []byte) (int, error) {
		if have-looked >= roomEvery {
			looked = have
			if err := j.room(1); err != nil {
				return 0, err
			}
		}
		stall.Reset(stallTime)
		n, err := body.Read(b)
		have += int64(n)
		if j.Progress != nil {
			j.Progress(have, p.Length)
		}
		if err != nil && err != io.EOF {
			err = brokenError{cause(ctx, err)}
		}
		return n, err
	}), limit-have+1))
	if err = errors.Join(err, f.Sync(), f.Close()); isFull(err) {
		return fmt.Errorf("%w: %w", ErrSpace, err)
	} else if err != nil {
		return err
	}
	switch size := j.partSize(); {
	case p.Length >= 0 && size < p.Length:
		return brokenError{fmt.Errorf("%d of %d bytes: %w", size, p.Length, io.ErrUnexpectedEOF)}
	case p.Length >= 0 && size > p.Length, size > maxImage:
		return errors.Join(fmt.Errorf("%w: more than the %d bytes announced", ErrOrigin, p.Length), j.discard())
	case size == 0 || n == 0 && p.Length < 0:
		return fmt.Errorf("%w: it is empty", ErrOrigin)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// cause prefers why the context ended.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// begin starts a download anew.
func (j *job) begin(p part) error {
	if err := j.discard(); err != nil {
		return err
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return renameio.WriteFile(j.file(partInfo), b, 0o644)
}

// discard removes a download.
func (j *job) discard() error {
	for _, f := range []string{partInfo, partFile} {
		if err := os.Remove(j.file(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (j *job) client() *http.Client {
	if j.HTTP != nil {
		return j.HTTP
	}
	return httpClient
}

// httpClient is for all sites, so that its connections are used again, and closed when they are not.
var httpClient = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: stallTime, IdleConnTimeout: 90 * time.Second,
	ForceAttemptHTTP2: true,
	// A connection that died without a word is not asked again.
	HTTP2: &http.HTTP2Config{SendPingTimeout: stallTime / 2, PingTimeout: stallTime / 2},
}}

// small fetches a file of a few bytes that stands beside the image, like its checksum. If there
// is none it returns nil.
func (j *job) small(ctx context.Context, suffix string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stallTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.src().Image+suffix, nil)
	if err != nil {
		return nil, err
	}
	res, err := j.client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrigin, err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden: // what is not there is forbidden in S3
		return nil, nil
	default:
		return nil, fmt.Errorf("%w: %s: %s", ErrOrigin, suffix, res.Status)
	}
	const limit = 64 << 10
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrOrigin, suffix, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%w: %s has more than %s bytes", ErrOrigin, suffix, strconv.Itoa(limit))
	}
	return b, nil
}
