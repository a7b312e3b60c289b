package chunk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// scattered is an image of which a device has every second chunk, so that there are many ranges.
func scattered(t *testing.T, size int) (image []byte, target *chunk.Index, device *chunktest.Device) {
	image = slotImage(1, size)
	target = slotIndex(t, image)
	half := make([]byte, len(image))
	for i, e := range target.Chunks {
		if i%2 == 0 {
			copy(half[e.Offset:e.End()], image[e.Offset:])
		}
	}
	return image, target, &chunktest.Device{Bytes: half, CutAt: -1}
}

// server is a fetcher that counts the ranges that are open.
type server struct {
	chunktest.Memory
	sequential bool
	// answer, if set, may give an error or another body instead. open is how many ranges are open
	// already.
	answer func(ctx context.Context, request, open int) (io.ReadCloser, error)

	mu                   sync.Mutex
	requests, open, most int
}

func (s *server) Sequential() bool { return s.sequential }

func (s *server) Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.requests++
	request, open := s.requests, s.open
	s.mu.Unlock()
	if s.answer != nil {
		if body, err := s.answer(ctx, request, open); body != nil || err != nil {
			return body, err
		}
	}
	r, err := s.Memory.Fetch(ctx, offset, length)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return &closing{ReadCloser: r, s: s}, nil
}

// closing counts its close, once.
type closing struct {
	io.ReadCloser
	s    *server
	once sync.Once
}

func (c *closing) Close() error {
	c.once.Do(func() {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.s.open--
	})
	return c.ReadCloser.Close()
}

// TestParallel has as many ranges open as is asked for, and one where ranges must follow one
// another. None is left open and nothing is left running, also after an error.
func TestParallel(t *testing.T) {
	errStop := errors.New("stop")
	for _, c := range []struct {
		parallel   int
		sequential bool
		stop       bool
		most       int
	}{{0, false, false, 1}, {1, false, false, 1}, {3, false, false, 3}, {3, true, false, 1}, {3, false, true, 3}} {
		synctest.Test(t, func(t *testing.T) { // fails when something is left running
			image, target, dev := scattered(t, 4<<20)
			s := &server{Memory: chunktest.Memory{Image: image}, sequential: c.sequential}
			n := 0
			_, err := chunk.Assemble(t.Context(), dev, target, nil, s, chunk.Options{Parallel: c.parallel, OnChunk: func(int64, []byte) error {
				synctest.Wait() // until all that can be opened is
				if n++; c.stop && n == 20 {
					return errStop
				}
				return nil
			}})
			if c.stop != errors.Is(err, errStop) || !c.stop && (err != nil || !bytes.Equal(dev.Bytes, image)) {
				t.Errorf("%+v: Assemble = %v", c, err)
			}
			if s.most != c.most || s.open != 0 {
				t.Errorf("%+v: %d ranges open at a time, %d left open", c, s.most, s.open)
			}
		})
	}
}

// TestOpenedAheadInVain has a server that gives a client one range at a time, and refuses others
// for good: as one whose connections are all taken does. Each range gets through in its turn. A
// server that refuses also then ends it.
func TestOpenedAheadInVain(t *testing.T) {
	busy := errors.New("busy")
	for _, c := range []struct {
		name   string
		refuse func(request, open int) bool
		want   error
	}{
		{"one at a time", func(_, open int) bool { return open > 0 }, nil},
		{"for ever from the tenth on", func(request, _ int) bool { return request >= 10 }, busy},
		{"the first", func(request, _ int) bool { return request == 1 }, busy},
	} {
		synctest.Test(t, func(t *testing.T) {
			image, target, dev := scattered(t, 2<<20)
			s := &server{Memory: chunktest.Memory{Image: image}}
			s.answer = func(_ context.Context, request, open int) (io.ReadCloser, error) {
				if c.refuse(request, open) {
					return nil, busy
				}
				return nil, nil
			}
			stats, err := chunk.Assemble(t.Context(), dev, target, nil, s, chunk.Options{Parallel: 3, OnChunk: func(int64, []byte) error {
				synctest.Wait()
				return nil
			}})
			if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(dev.Bytes, image) {
				t.Errorf("%s: Assemble = %v, want %v", c.name, err, c.want)
			}
			if stats.Requests != s.requests || s.open != 0 {
				t.Errorf("%s: %d requests counted of %d, %d ranges left open", c.name, stats.Requests, s.requests, s.open)
			}
		})
	}
}

// waiting is a body whose server sends nothing, or an answer that does not come.
type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

func (waiting) Close() error { return nil }

// TestCancelAhead cancels while requests have no answer and while answers have no bytes, each of
// them for a range that is read and for those that were opened ahead.
func TestCancelAhead(t *testing.T) {
	for _, stalled := range []int{1, 2, 3, 7} { // the request from which on nothing comes
		for _, body := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				image, target, dev := scattered(t, 2<<20)
				s := &server{Memory: chunktest.Memory{Image: image}}
				s.answer = func(ctx context.Context, request, _ int) (io.ReadCloser, error) {
					switch {
					case request < stalled:
						return nil, nil
					case body:
						return waiting{ctx}, nil
					}
					<-ctx.Done()
					return nil, ctx.Err()
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() {
					_, err := chunk.Assemble(ctx, dev, target, nil, s, chunk.Options{Parallel: 3})
					done <- err
				}()
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("stalled at request %d: Assemble = %v, want it to wait", stalled, err)
				default:
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) || s.open != 0 {
					t.Errorf("stalled at request %d, answered %v: Assemble = %v, %d ranges left open; want %v, none", stalled, body, err, s.open, context.Canceled)
				}
			})
		}
	}
}
