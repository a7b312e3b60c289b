// Package storetest holds implementations of [repository.Store] to its contract.
package storetest

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/repository"
)

// Run holds the empty store s to its contract. A store that locks refuses a second publisher in
// Lock, another one in Put.
func Run(t *testing.T, s repository.Store, locks bool) {
	t.Helper()
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		r, err := s.Open(t.Context(), name)
		if errors.Is(err, os.ErrNotExist) {
			return "<none>"
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put := func(name string, r io.Reader, ok bool) {
		t.Helper()
		if err := s.Put(t.Context(), name, r); (err == nil) != ok {
			t.Errorf("Put(%s) = %v, want ok %v", name, err, ok)
		}
	}
	put("a/b/one", strings.NewReader("1"), true)
	put("a/two", strings.NewReader("2"), true)
	put("c", strings.NewReader("3"), true)
	put(repository.TimestampName, strings.NewReader("1"), true)
	put(repository.TimestampName, strings.NewReader("22"), true)
	put(repository.TimestampName, io.MultiReader(strings.NewReader("333"), failing{}), false)
	put("a/three", failing{}, false)
	for name, want := range map[string]string{"a/b/one": "1", "a/two": "2", repository.TimestampName: "22", "c": "3", "a/three": "<none>", "d/e": "<none>"} {
		if got := read(name); got != want {
			t.Errorf("Open(%s) = %q, want %q", name, got, want)
		}
	}
	for prefix, want := range map[string]string{"a": "a/b/one a/two", "none": ""} {
		files, err := s.List(t.Context(), prefix)
		var names []string
		for _, f := range files {
			names = append(names, f.Name)
			if age := time.Since(f.ModTime); age < -time.Minute || age > time.Minute || f.Size < 1 || f.Size > 2 {
				t.Errorf("List(%s) = %+v, want its size and time", prefix, f)
			}
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("List(%s) = %q, %v; want %q", prefix, got, err, want)
		}
	}
	for _, name := range []string{"a/b/one", "a/b/one", "none"} {
		if err := s.Remove(t.Context(), name); err != nil {
			t.Errorf("Remove(%s) = %v", name, err)
		}
	}
	if got := read("a/b/one") + read("a/two"); got != "<none>2" {
		t.Errorf("after Remove of the first of two: %q", got)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context()); locks && !errors.Is(err, repository.ErrLocked) {
		t.Errorf("second Lock = %v, want %v", err, repository.ErrLocked)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = s.Lock(t.Context()); err != nil {
		t.Fatalf("Lock after unlock = %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
