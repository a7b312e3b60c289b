package repository

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/time/rate"
)

// newTransport returns a transport with the proxy of the environment.
func newTransport(stall time.Duration, t *tls.Config) http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: stall}).DialContext,
		TLSHandshakeTimeout:    stall,
		TLSClientConfig:        t,
		ResponseHeaderTimeout:  stall,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // images are compressed, and ranges are of the file itself
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			// What waits for a range to be read waits in our memory here.
			MaxReceiveBufferPerStream: streamBuffer,
			// A connection that died without a word is not tried again and again: it is gone
			// when its request counts as stalled.
			SendPingTimeout: stall / 2,
			PingTimeout:     stall / 2,
		},
	}
}

// streamBuffer is enough for 10 MB/s where an answer takes a tenth of a second.
const streamBuffer = 1 << 20

// checkRedirect follows a few redirects, as CDNs use them, never away from
// TLS.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("more than 5 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s", req.URL.Scheme)
	}
	return nil
}

// transport counts requests and the bytes of bodies, and slows bodies down to
// the limit.
type transport struct {
	next            http.RoundTripper
	limit           *rate.Limiter // nil: none
	requests, bytes atomic.Int64
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.requests.Add(1)
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &counted{ReadCloser: res.Body, ctx: req.Context(), t: t}
	return res, nil
}

// burst is how much is read at once at most under a limit.
const burst = 16 << 10

func newLimiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	// No wait is longer than a second, so that it is not taken for a stall.
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(burst, bytesPerSecond)))
}

type counted struct {
	io.ReadCloser
	ctx context.Context
	t   *transport
}

func (c *counted) Read(b []byte) (int, error) {
	if c.t.limit != nil && len(b) > c.t.limit.Burst() {
		b = b[:c.t.limit.Burst()]
	}
	n, err := c.ReadCloser.Read(b)
	c.t.bytes.Add(int64(n))
	if c.t.limit != nil && n > 0 {
		if werr := c.t.limit.WaitN(c.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

// statusError is an answer without the file.
type statusError struct{ status int }

func (e statusError) Error() string {
	text := fmt.Sprintf("server answered %d %s", e.status, http.StatusText(e.status))
	if e.status == http.StatusNotFound {
		text += " (is it a repository?)"
	}
	return text
}

// temporary says whether asking again may help.
func (e statusError) temporary() bool {
	switch e.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusTooEarly:
		return true
	}
	return e.status >= 500 && e.status != http.StatusNotImplemented && e.status != http.StatusHTTPVersionNotSupported
}

// get fetches a whole file of at most limit bytes, repeating what brings
// nothing.
func (c *Client) get(ctx context.Context, what, address string, limit int64) ([]byte, error) {
	tries := 0
	b, err := backoff.Retry(ctx, func() ([]byte, error) {
		tries++
		b, err := c.getOnce(ctx, what, address, limit)
		if err == nil || isTemporary(ctx, err) && tries <= c.Retries {
			return b, err
		}
		return nil, backoff.Permanent(err)
	}, backoff.WithBackOff(c.pauses()), backoff.WithMaxElapsedTime(0))
	if cerr := ctx.Err(); err != nil && cerr != nil {
		return nil, cerr // rather than its cause, which may be a signal
	}
	return b, err
}

// pauses returns the waits between repetitions: doubling, with jitter, so that
// a fleet does not come back all at once.
func (c *Client) pauses() backoff.BackOff {
	p := backoff.NewExponentialBackOff()
	p.InitialInterval, p.MaxInterval, p.Multiplier, p.RandomizationFactor = c.Wait, 30*c.Wait, 2, 0.5
	return p
}

func (c *Client) getOnce(ctx context.Context, what, address string, limit int64) ([]byte, error) {
	res, err := c.do(ctx, what, address, "")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		// go-tuf takes this, and only this, as the end of the roots.
		return nil, &metadata.ErrDownloadHTTP{StatusCode: res.StatusCode, URL: address}
	}
	if res.StatusCode != http.StatusOK {
		return nil, &ClientError{Kind: ErrUnreachable, What: what, Err: statusError{res.StatusCode}}
	}
	if res.ContentLength > limit {
		return nil, &ClientError{Kind: ErrTooLarge, What: what, Err: fmt.Errorf("%d bytes announced, limit is %d", res.ContentLength, limit)}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, bodyError(ctx, what, err)
	}
	if int64(len(b)) > limit {
		return nil, &ClientError{Kind: ErrTooLarge, What: what, Err: fmt.Errorf("limit is %d bytes", limit)}
	}
	return b, nil
}

// bodyError says why a body ended early.
func bodyError(ctx context.Context, what string, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	kind := ErrUnreachable
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		kind = ErrTruncated
	}
	return &ClientError{Kind: kind, What: what, Err: err}
}

// errStalled says that a server sent nothing for too long.
var errStalled = errors.New("server sends nothing")

// do sends one request. The body ends with errStalled when nothing comes for
// too long.
func (c *Client) do(ctx context.Context, what, address, byteRange string) (*http.Response, error) {
	inner, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.Stall, func() { cancel(errStalled) })
	stop := func() {
		timer.Stop()
		cancel(nil)
	}
	req, err := http.NewRequestWithContext(inner, http.MethodGet, address, nil)
	if err != nil {
		stop()
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	req.Header.Set("User-Agent", "os-update")
	req.Header.Set("Accept-Encoding", "identity")
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			err = cerr
		} else if cause := context.Cause(inner); cause != nil {
			err = &ClientError{Kind: ErrUnreachable, What: what, Err: cause}
		} else {
			err = &ClientError{Kind: ErrUnreachable, What: what, Err: err}
		}
		stop()
		return nil, err
	}
	timer.Stop() // until somebody reads: a range may be opened before its turn comes
	res.Body = &watched{ReadCloser: res.Body, inner: inner, timer: timer, stall: c.Stall, stop: stop}
	return res, nil
}

// watched is a body that may not stall.
type watched struct {
	io.ReadCloser
	inner context.Context
	timer *time.Timer
	stall time.Duration
	stop  func()
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.ReadCloser.Read(b)
	// Between reads the clock stands still: the reader may be slow, as flash
	// is.
	w.timer.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(w.inner); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (w *watched) Close() error {
	w.stop()
	return w.ReadCloser.Close()
}

// isTemporary says whether asking again may help. An error of a transport that knows it does
// not has a method Permanent.
func isTemporary(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var status statusError
	if errors.As(err, &status) {
		return status.temporary()
	}
	var hopeless interface{ Permanent() bool }
	if errors.As(err, &hopeless) && hopeless.Permanent() {
		return false
	}
	var e *ClientError
	return errors.As(err, &e) && (e.Kind == ErrUnreachable || e.Kind == ErrTruncated)
}
