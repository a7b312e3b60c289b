// Package chunktest holds the contract of [chunk.Fetcher] as tests, and
// fetchers and devices that break in chosen ways.
//
// Every implementation of Fetcher calls [Fetchers] from a test of its own.
package chunktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/OSInside/eos/internal/chunk"
)

// Data returns size bytes that do not compress and are the same for the same
// seed.
func Data(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Fetchers checks that what open returns keeps the contract of
// [chunk.Fetcher]. open gets the bytes of an image and returns a fetcher that
// serves them.
func Fetchers(t *testing.T, open func(t *testing.T, image []byte) chunk.Fetcher) {
	image := Data(1, 300_000)
	read := func(t *testing.T, f chunk.Fetcher, offset, length int64) {
		t.Helper()
		r, err := f.Fetch(t.Context(), offset, length)
		if err != nil {
			t.Fatalf("Fetch(%d, %d) = %v, want no error", offset, length, err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("read of Fetch(%d, %d) = %v, want no error", offset, length, err)
		}
		if err := r.Close(); err != nil {
			t.Fatalf("Close of Fetch(%d, %d) = %v, want no error", offset, length, err)
		}
		if !bytes.Equal(got, image[offset:offset+length]) {
			t.Fatalf("Fetch(%d, %d) gave %d bytes that are not the image's", offset, length, len(got))
		}
	}
	t.Run("ranges", func(t *testing.T) {
		f := open(t, image)
		for _, r := range [][2]int64{{0, 1}, {0, 300_000}, {299_999, 1}, {4096, 65536}, {100_000, 200_000}} {
			read(t, f, r[0], r[1])
		}
	})
	t.Run("closed early and again", func(t *testing.T) {
		f := open(t, image)
		r, err := f.Fetch(t.Context(), 10, 200_000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("Close before the end = %v, want no error", err)
		}
		read(t, f, 10, 200_000)
	})
	t.Run("second before the first is closed", func(t *testing.T) {
		f := open(t, image)
		r, err := f.Fetch(t.Context(), 0, 200_000)
		if err != nil {
			t.Fatal(err)
		}
		read(t, f, 250_000, 50)
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, image[:200_000]) {
			t.Errorf("first reader after a second Fetch: %d bytes, error %v; want 200000 right bytes", len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		f := open(t, image)
		var wg sync.WaitGroup
		for i := range int64(8) {
			wg.Go(func() {
				offset := i * 37_000
				r, err := f.Fetch(t.Context(), offset, 40_000)
				if err != nil {
					t.Errorf("Fetch(%d) beside others = %v", offset, err)
					return
				}
				got, err := io.ReadAll(r)
				if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, image[offset:offset+40_000]) {
					t.Errorf("Fetch(%d) beside others: %d bytes, error %v; want 40000 right bytes", offset, len(got), err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("past the end", func(t *testing.T) {
		f := open(t, image)
		r, err := f.Fetch(t.Context(), 299_990, 20)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if err == nil {
			t.Error("Fetch past the end of the image gave no error")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		f := open(t, image)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r, err := f.Fetch(ctx, 0, 300_000)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Fetch with a cancelled context = %v, want %v", err, context.Canceled)
		}
	})
}

// Memory is a fetcher over bytes at hand. It counts requests; Bend, if set,
// may change what a request gives.
type Memory struct {
	mu       sync.Mutex
	Image    []byte
	Requests int
	Bend     func(offset int64, data []byte) io.Reader
}

// Fetch implements [chunk.Fetcher].
func (m *Memory) Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	m.mu.Lock()
	m.Requests++
	m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if offset < 0 || offset+length > int64(len(m.Image)) {
		return nil, errors.New("range outside the image")
	}
	data := m.Image[offset : offset+length]
	if m.Bend != nil {
		return io.NopCloser(m.Bend(offset, data)), nil
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
