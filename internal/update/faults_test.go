package update

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
)

// onBlob lets fault answer for the blob. It gets the range that was asked for and how often the
// blob was asked for before; the blob's whole content is b.
type onBlob func(w http.ResponseWriter, r *http.Request, first, last, before int, b []byte)

func (l *lab) onBlob(fault onBlob) {
	var mu sync.Mutex
	asked := 0
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, ".blob") {
				h.ServeHTTP(w, r)
				return
			}
			b, err := os.ReadFile(l.repo + r.URL.Path)
			if err != nil {
				l.t.Error(err)
			}
			var first, last int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
				l.t.Errorf("range %q: %v", r.Header.Get("Range"), err)
			}
			mu.Lock()
			before := asked
			asked++
			mu.Unlock()
			fault(w, r, first, last, before, b)
		})
	}
}

// partial begins the answer that is right for a range.
func partial(w http.ResponseWriter, first, last, size int) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
}

const page = "<!DOCTYPE html><title>Please log in</title>"

// TestFaultsOnTheWay lets one thing at a time be wrong with what comes over the network. Either the
// update gets through all the same, or there is an error with its exit status, the old system is the
// one that starts, and what has arrived is not fetched again once the fault is over.
func TestFaultsOnTheWay(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault onBlob
		code  cli.Code // 0: it gets through
		text  string
	}{
		{"ranges ignored", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, b []byte) {
			_, _ = w.Write(b)
		}, 0, ""},
		{"ranges ignored, length not said", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, b []byte) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(b)
		}, 0, ""},
		{"breaks off every 100 kB", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			partial(w, first, last, len(b))
			if last-first < 100_000 {
				_, _ = w.Write(b[first : last+1])
				return
			}
			_, _ = w.Write(b[first : first+100_000])
			panic(http.ErrAbortHandler)
		}, 0, ""},
		{"busy every other time", func(w http.ResponseWriter, _ *http.Request, first, last, before int, b []byte) {
			if before%2 == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			partial(w, first, last, len(b))
			_, _ = w.Write(b[first : last+1])
		}, 0, ""},
		{"404 half-way", func(w http.ResponseWriter, r *http.Request, first, last, before int, b []byte) {
			if before > 0 {
				http.NotFound(w, r)
				return
			}
			partial(w, first, last, len(b))
			_, _ = w.Write(b[first:min(first+200_000, last+1)])
			panic(http.ErrAbortHandler)
		}, cli.Unreachable, "404"},
		{"truncated", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			partial(w, first, last, len(b))
		}, cli.Unreachable, "truncated"},
		{"stalled", func(w http.ResponseWriter, r *http.Request, first, last, before int, b []byte) {
			partial(w, first, last, len(b))
			if last-first < 200_000 {
				_, _ = w.Write(b[first : last+1])
				return
			}
			if before < 3 {
				_, _ = w.Write(b[first : first+200_000])
			}
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, cli.Unreachable, "server sends nothing"},
		{"endless", func(w http.ResponseWriter, r *http.Request, _, _, _ int, b []byte) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
					return
				}
			}
		}, cli.Unverified, "verify chunk"},
		{"a bit flipped", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			b[500_000] ^= 8
			partial(w, first, last, len(b))
			_, _ = w.Write(b[first : last+1])
		}, cli.Unverified, "verify chunk"},
		{"another range", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			partial(w, len(b)-1-last, len(b)-1-first, len(b))
			_, _ = w.Write(b[len(b)-1-last : len(b)-first])
		}, cli.Unverified, "server sent range"},
		{"another range under the right name", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			partial(w, first, last, len(b))
			_, _ = w.Write(b[len(b)-1-last : len(b)-first])
		}, cli.Unverified, "verify chunk"},
		{"several ranges", func(w http.ResponseWriter, _ *http.Request, first, last, _ int, b []byte) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprintf(w, "--x\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n--x--\r\n", first, last, len(b), b[first:last+1])
		}, cli.Unverified, "server sent range"},
		{"a page", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, _ []byte) {
			_, _ = io.WriteString(w, page)
		}, cli.Unverified, "server sent a file of 43 bytes"},
		{"a page, length not said", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, _ []byte) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, page)
		}, cli.Unreachable, "truncated"},
		{"compressed on the way", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, b []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(b)
			_ = z.Close()
		}, cli.Unverified, "verify chunk"},
		{"ranges refused", func(w http.ResponseWriter, _ *http.Request, _, _, _ int, b []byte) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}, cli.Unreachable, "416"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.publish("2")
			if c.name == "stalled" {
				l.u.Trust.Stall = 100 * time.Millisecond
			}
			l.onBlob(c.fault)
			res, err := l.u.Apply(t.Context(), ApplyOptions{})
			if c.code != 0 {
				wantCode(t, "Apply", err, c.code, c.text)
				if s := l.state(); s.B.Status != bootstate.Empty || s.Default != "a" || l.machine.cmdline != "" {
					t.Errorf("state after the fault = %+v, loaded %q, want the old system and nothing to start", s, l.machine.cmdline)
				}
				l.powerOn()
				l.commit()
				if l.machine.dev.Version != "1" {
					t.Errorf("version %s runs after the fault, want 1", l.machine.dev.Version)
				}
				l.wrap = nil
				again := l.apply(ApplyOptions{})
				if !again.Resumed || again.FetchedBytes > again.TotalBytes-again.KeptBytes {
					t.Errorf("Apply after the fault = %+v, want it to go on with what is there", again)
				}
			} else if err != nil || !res.Wrote {
				t.Fatalf("Apply = %+v, %v; want it to get through", res, err)
			}
			l.kexec()
			l.commit()
			if l.machine.dev.Version != "2" {
				t.Errorf("version %s runs in the end, want 2", l.machine.dev.Version)
			}
		})
	}
}

// TestFullImage updates to an image of which nothing is at hand. It says so, and goes on with the rest
// alone when it was interrupted.
func TestFullImage(t *testing.T) {
	const said = "fetching the whole image"
	l := newLab(t)
	l.publish("2", func(s *spec) { s.base = 99 })
	dry := l.apply(ApplyOptions{DryRun: true})
	requests := 0
	l.onBlob(func(w http.ResponseWriter, _ *http.Request, first, last, before int, b []byte) {
		requests++
		partial(w, first, last, len(b))
		if before < 2 { // the second is the client's retry
			_, _ = w.Write(b[first:min(first+200_000, last+1)])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(b[first : last+1])
	})
	l.u.Trust.Retries = -1
	_, err := l.u.Apply(t.Context(), ApplyOptions{})
	wantCode(t, "Apply over a link that breaks", err, cli.Unreachable, "truncated")
	if !strings.Contains(l.notes.String(), said) {
		t.Errorf("notes = %q, want %q", l.notes, said)
	}
	l.notes.lines = nil
	l.u.Trust.Retries = 1
	rest := l.apply(ApplyOptions{DownloadOnly: true})
	if rest.FullImage || rest.KeptBytes == 0 || rest.FetchedBytes > rest.TotalBytes-rest.KeptBytes || strings.Contains(l.notes.String(), said) {
		t.Errorf("Apply that goes on = %+v, said %q; want the rest alone", rest, l.notes)
	}

	l.renew()
	l.notes.lines = nil
	res := l.apply(ApplyOptions{})
	if !res.FullImage || res.FetchedBytes != res.TotalBytes || !dry.FullImage || dry.FetchedBytes != res.FetchedBytes || !strings.Contains(l.notes.String(), said) {
		t.Errorf("Apply = %+v, dry run %+v, said %q; want the whole image", res, dry, l.notes)
	}
	l.kexec()
	l.commit()
}

// TestLimitRateReachesTheClient: a limit is worth nothing that is read and then forgotten.
func TestLimitRateReachesTheClient(t *testing.T) {
	l := newLab(t)
	l.u.Config.LimitRate = 12345
	s, err := l.u.open()
	l.must(err)
	c, err := s.client(t.Context())
	if err != nil || c.LimitRate != 12345 {
		t.Errorf("client with a limit of 12345 bytes a second = %+v, %v", c, err)
	}
}
