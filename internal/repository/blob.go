package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/OSInside/eos/internal/chunk"
)

// A BlobFetcher gives ranges of an image's blob. It implements
// [chunk.Fetcher]. A range that breaks off is continued where it broke.
//
// A server or proxy that ignores ranges sends the whole blob; it is then read
// once, in order, and kept open between calls, instead of once for each range.
type BlobFetcher struct {
	c    *Client
	blob File

	mu         sync.Mutex
	sequential bool // the server ignores ranges
	// whole is a body that began at 0 and stands at wholeAt, with nobody
	// reading it; nil when there is none.
	whole   io.ReadCloser
	wholeAt int64
}

var _ chunk.Fetcher = (*BlobFetcher)(nil)

// Fetcher returns a fetcher for the image's blob. Close it when done.
func (c *Client) Fetcher(img Image) *BlobFetcher {
	return &BlobFetcher{c: c, blob: img.Blob}
}

// Sequential says that the server ignores ranges, or that a rate limit would
// be passed by what waits in buffers.
func (f *BlobFetcher) Sequential() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sequential || f.c.LimitRate > 0
}

// Close lets go of the connection a fetcher may hold.
func (f *BlobFetcher) Close() error {
	if body, _ := f.takeWhole(math.MaxInt64); body != nil {
		return body.Close()
	}
	return nil
}

// takeWhole takes the body that is the whole blob, if there is one that stands
// at or before offset.
func (f *BlobFetcher) takeWhole(offset int64) (body io.ReadCloser, at int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.whole == nil || f.wholeAt > offset {
		return nil, 0
	}
	body, f.whole = f.whole, nil
	return body, f.wholeAt
}

// keepWhole keeps a body that is the whole blob for the next range, and says
// whether there was room for it.
func (f *BlobFetcher) keepWhole(body io.ReadCloser, at int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.whole != nil {
		return false
	}
	f.whole, f.wholeAt = body, at
	return true
}

// Fetch implements [chunk.Fetcher].
func (f *BlobFetcher) Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	if err := f.c.setup(); err != nil {
		return nil, err
	}
	if offset < 0 || length <= 0 || offset+length > f.blob.Length {
		return nil, fmt.Errorf("internal error: range %d+%d of %d bytes", offset, length, f.blob.Length)
	}
	r := &rangeReader{ctx: ctx, f: f, at: offset, end: offset + length, pauses: f.c.pauses()}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// rangeReader reads one range, over as many answers as it takes.
type rangeReader struct {
	ctx     context.Context
	f       *BlobFetcher
	at, end int64
	body    io.ReadCloser
	isWhole bool
	tries   int // since the last byte
	pauses  backoff.BackOff
}

func (r *rangeReader) Read(b []byte) (int, error) {
	for {
		if r.at == r.end {
			return 0, io.EOF
		}
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(b[:min(int64(len(b)), r.end-r.at)])
		if n > 0 {
			r.at += int64(n)
			r.tries = 0
			r.pauses.Reset()
			return n, nil
		}
		if err == nil {
			continue
		}
		r.drop()
		if err := r.pause(bodyError(r.ctx, r.f.blob.Path, err)); err != nil {
			return 0, err
		}
	}
}

// Close keeps a body that is the whole blob for the next range.
func (r *rangeReader) Close() error {
	if r.isWhole && r.body != nil && r.ctx.Err() == nil && r.f.keepWhole(r.body, r.at) {
		r.body = nil
		return nil
	}
	r.drop()
	return nil
}

// drop closes the body. Its error says nothing about what was read.
func (r *rangeReader) drop() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
}

// pause waits before the next try, or returns why there is none.
func (r *rangeReader) pause(err error) error {
	r.tries++
	if !isTemporary(r.ctx, err) || r.tries > r.f.c.Retries {
		return err
	}
	t := time.NewTimer(r.pauses.NextBackOff())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// open makes body stand at r.at.
func (r *rangeReader) open() error {
	if body, at := r.f.takeWhole(r.at); body != nil {
		if _, err := io.CopyN(io.Discard, readerContext{r.ctx, body}, r.at-at); err == nil {
			r.body, r.isWhole = body, true
			return nil
		}
		_ = body.Close() // broke off: ask anew
	}
	for {
		err := r.request()
		if err == nil {
			return nil
		}
		r.drop()
		if err := r.pause(err); err != nil {
			return err
		}
	}
}

// request asks once for what is left of the range.
func (r *rangeReader) request() error {
	blob := r.f.blob
	res, err := r.f.c.do(r.ctx, blob.Path, r.f.c.address(blob.url()), fmt.Sprintf("bytes=%d-%d", r.at, r.end-1))
	if err != nil {
		return err
	}
	r.body, r.isWhole = res.Body, false
	wrong := func(format string, a ...any) error {
		return &ClientError{Kind: ErrUntrusted, What: blob.Path, Err: fmt.Errorf(format, a...)}
	}
	switch res.StatusCode {
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", r.at, r.end-1, blob.Length)
		if got := res.Header.Get("Content-Range"); got != want {
			return wrong("server sent range %q, want %q", got, want)
		}
		if n := res.ContentLength; n >= 0 && n != r.end-r.at {
			return wrong("server sent %d bytes for a range of %d", n, r.end-r.at)
		}
		return nil
	case http.StatusOK:
		if n := res.ContentLength; n >= 0 && n != blob.Length {
			return wrong("server sent a file of %d bytes, want %d", n, blob.Length)
		}
		r.isWhole = true
		r.f.mu.Lock()
		r.f.sequential = true
		r.f.mu.Unlock()
		if _, err := io.CopyN(io.Discard, res.Body, r.at); err != nil {
			return bodyError(r.ctx, blob.Path, err)
		}
		return nil
	}
	return &ClientError{Kind: ErrUnreachable, What: blob.Path, Err: statusError{res.StatusCode}}
}

// IsTransport says whether err is about the way to the repository rather than
// about what it holds: trying later may help.
func IsTransport(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrTruncated)
}
