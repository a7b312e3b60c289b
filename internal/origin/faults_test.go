package origin

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// begin makes a site with version 1.0 of an image, and returns what may be done with it: an Update that
// must end with want and leave the old copy, and one that must take the new one.
func begin(t *testing.T, next []byte, ending string) (origin *server, s *Site, fails func(want error), succeeds func(disk []byte)) {
	t.Helper()
	origin, s = newServer(t), newSite(t)
	s.Retries = -1
	one := disk(t, "1.0")
	src := Source{Image: origin.URL + "/EOS.raw" + ending, Name: "EOS.raw"}
	origin.put("EOS.raw"+ending, one)
	if _, _, err := s.Update(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	origin.put("EOS.raw"+ending, next)
	fails = func(want error) {
		t.Helper()
		st, changed, err := s.Update(t.Context(), src)
		if !errors.Is(err, want) || changed || st.Version != "1.0" {
			t.Errorf("Update = %+v, %v, %v; want %v and the old copy", st, changed, err, want)
		}
		if b, err := os.ReadFile(filepath.Join(s.Dir, src.Name)); err != nil || !bytes.Equal(b, one) {
			t.Errorf("the copy is another one: %v", err)
		}
	}
	succeeds = func(disk []byte) {
		t.Helper()
		if st, changed, err := s.Update(t.Context(), src); err != nil || !changed {
			t.Errorf("Update afterwards = %+v, %v, %v", st, changed, err)
		}
		check(t, s, src.Name, disk)
	}
	return origin, s, fails, succeeds
}

// TestEndless: an origin that says no length and does not end fills no disk.
func TestEndless(t *testing.T) {
	two := disk(t, "2.0")
	origin, s, fails, succeeds := begin(t, two, "")
	origin.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("ETag", `"endless"`)
		w.(http.Flusher).Flush() // no length, then
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return true
			}
		}
	}
	looks := 0
	s.Free = func(string) (int64, error) {
		if looks++; looks < 3 {
			return 1 << 30, nil
		}
		return 64 << 20, nil // what has to stay free
	}
	fails(ErrSpace)
	if size, err := os.Stat(s.work("EOS.raw", partFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the download is still there: %v, %v", size, err)
	}
	origin.mu.Lock()
	origin.wrap = nil
	origin.mu.Unlock()
	s.Free = nil
	succeeds(two)
}

// TestDiskFull lets the disk take no more than five megabytes of a file, so that either the download
// or what is made of it does not get to its end.
func TestDiskFull(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	two := disk(t, "2.0")
	for ending, b := range map[string][]byte{"": two, ".xz": packed(t, two, "xz", "-c", "-1")} {
		_, s, fails, succeeds := begin(t, b, ending)
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		full := limit
		full.Cur = 5 * mib
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
			t.Fatal(err)
		}
		fails(ErrSpace)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(s.work("EOS.raw", "new*")); err != nil || len(left) > 0 {
			t.Errorf("raw%s: left behind: %v, %v", ending, left, err)
		}
		succeeds(two)
	}
}

// TestIfRangeIgnored breaks off a download and goes on with a server that has another file by then and
// sends the rest of that one.
func TestIfRangeIgnored(t *testing.T) {
	two, three := disk(t, "2.0"), disk(t, "3.0")
	origin, s, fails, succeeds := begin(t, two, "")
	parts := 0
	origin.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		origin.mu.Lock()
		defer origin.mu.Unlock()
		var from int
		_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		switch {
		case strings.HasSuffix(r.URL.Path, ".sha256"):
			return false
		case err != nil && parts == 0:
			w.Header().Set("ETag", `"two"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(two)))
			_, _ = w.Write(two[:3*mib])
			panic(http.ErrAbortHandler)
		case err != nil:
			return false
		}
		parts++
		w.Header().Set("ETag", `"three"`)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(three)-1, len(three)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(three[from:])
		return true
	}
	fails(ErrOrigin)
	origin.put("EOS.raw", three)
	s.Retries = 1
	succeeds(three)
	if parts == 0 {
		t.Error("the download was not gone on with, so that nothing was tested")
	}
}

// TestKilled finds what a run left that was killed while it unpacked: it takes the room that the next
// one needs.
func TestKilled(t *testing.T) {
	two := disk(t, "2.0")
	_, s, _, succeeds := begin(t, two, "")
	left := s.work("EOS.raw", "new.dev")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Free = func(string) (int64, error) {
		if _, err := os.Stat(left); err == nil {
			return 0, nil
		}
		return 1 << 30, nil
	}
	succeeds(two)
}

func TestParseContentRange(t *testing.T) {
	for _, c := range []struct {
		text               string
		first, last, total int64
		ok                 bool
	}{
		{"bytes 0-0/1", 0, 0, 1, true},
		{"bytes 5-9/10", 5, 9, 10, true},
		{"bytes 5-9/*", 5, 9, -1, true},
		{"bytes 0-9223372036854775806/9223372036854775807", 0, 1<<63 - 2, 1<<63 - 1, true},
		{"", 0, 0, -1, false},
		{"bytes */10", 0, 0, -1, false},
		{"bytes 5-10/10", 0, 0, -1, false},
		{"bytes 9-5/10", 0, 0, -1, false},
		{"bytes -5-9/10", 0, 0, -1, false},
		{"bytes +5-9/10", 0, 0, -1, false},
		{"bytes 5-9/9223372036854775808", 0, 0, -1, false},
		{"lines 5-9/10", 0, 0, -1, false},
		{"bytes=5-9/10", 0, 0, -1, false},
		{"bytes 5-9", 0, 0, -1, false},
	} {
		first, last, total, err := parseContentRange(c.text)
		if first != c.first || last != c.last || total != c.total || (err == nil) != c.ok {
			t.Errorf("parseContentRange(%q) = %d, %d, %d, %v; want %d, %d, %d, ok %v", c.text, first, last, total, err, c.first, c.last, c.total, c.ok)
		}
	}
}

// FuzzContentRange: what is accepted is a range, and reads back as the same one.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 5-9/9223372036854775808", "bytes 00-1/2", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, err := parseContentRange(s)
		if err != nil {
			return
		}
		if first < 0 || last < first || total >= 0 && last >= total || total < -1 {
			t.Fatalf("parseContentRange(%q) = %d, %d, %d", s, first, last, total)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", first, last, total)
		if total < 0 {
			again = fmt.Sprintf("bytes %d-%d/*", first, last)
		}
		if a, b, c, err := parseContentRange(again); a != first || b != last || c != total || err != nil {
			t.Errorf("parseContentRange(%q) = %d, %d, %d, %v; want what %q gave", again, a, b, c, err, s)
		}
	})
}

// FuzzParseConfig: what is accepted names only files of the folder, each once, and only by http.
func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		"update:\n- image: https://h/x.raw.xz\n  name: x.raw\n", "update:\n- {image: http://h/x, name: x.raw, keyring: /k}\n",
		"update: []\n", "update:\n- x\n", "a: &a [*a]\n", "update:\n- {name: x.raw, name: y.raw}\n", "{", "", "0\r\r0",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig("c", b)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "c:") || strings.Contains(err.Error(), "\n") {
				t.Errorf("ParseConfig(%q) = %q, want one line that names the file", b, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, s := range c.Update {
			if filepath.Base(s.Name) != s.Name || !strings.HasSuffix(s.Name, ".raw") || strings.HasPrefix(s.Name, ".") || seen[s.Name] {
				t.Errorf("ParseConfig(%q) accepts the name %q", b, s.Name)
			}
			seen[s.Name] = true
			if !strings.HasPrefix(strings.ToLower(s.Image), "http") {
				t.Errorf("ParseConfig(%q) accepts the image %q", b, s.Image)
			}
		}
	})
}

// FuzzDiskSize reads what an origin sends up to the size of its disk: compressed or not, it gives a size
// that is bounded and whole sectors, or an error.
func FuzzDiskSize(f *testing.F) {
	head := make([]byte, headSize)
	copy(head[sectorSize:], "EFI PART")
	head[sectorSize+32] = 99
	f.Add(head)
	f.Add(head[:headSize-1])
	f.Add([]byte("\xfd7zXZ\x00\x00\x04"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x00"))
	f.Add([]byte("<html>"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, done, err := decompress(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		defer done()
		body := bufio.NewReaderSize(r, headSize)
		size, err := diskSize(body)
		if err != nil {
			if !errors.Is(err, ErrNotImage) {
				t.Errorf("diskSize = %v, want %v", err, ErrNotImage)
			}
			return
		}
		if size < 4*sectorSize || size > maxDisk || size%sectorSize != 0 {
			t.Errorf("diskSize = %d", size)
		}
		_, _ = io.CopyN(io.Discard, body, 1<<20) // it must not panic
	})
}
