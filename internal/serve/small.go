package serve

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// small keeps the content of files that every device asks for, metadata, and spares opening them
// each time. A look at the file says whether it is still the one that was read; it holds for a
// moment that is shorter than any way over a network.
type small struct {
	dir *os.File // the repository

	mu    sync.Mutex
	files map[string]kept
}

// kept is the content of a file and what it was read from.
type kept struct {
	id       fileID
	modified time.Time
	etag     string
	content  []byte
	looked   time.Time
}

// lookTime is how long a look at a file holds.
const lookTime = 5 * time.Millisecond

// fileID is another one whenever a file has been replaced or written to.
type fileID struct {
	dev, inode        uint64
	size              int64
	modified, changed unix.Timespec
}

func idOf(st *unix.Stat_t) fileID {
	return fileID{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// Larger files are not kept, nor more than so many.
const (
	maxSmall  = 64 << 10
	maxSmalls = 64
)

// get returns a file as it is now, if it is kept.
func (s *small) get(name string) (kept, bool) {
	s.mu.Lock()
	k, ok := s.files[name]
	s.mu.Unlock()
	if !ok {
		return kept{}, false
	}
	now := time.Now()
	if now.Sub(k.looked) < lookTime {
		return k, true
	}
	// That a link may be on the way does no harm: what counts is that it ends at the file that was read.
	var st unix.Stat_t
	if err := unix.Fstatat(int(s.dir.Fd()), name, &st, 0); err != nil || idOf(&st) != k.id {
		return kept{}, false
	}
	k.looked = now
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.files[name]; ok && have.id == k.id {
		s.files[name] = k
	}
	return k, true
}

// keep reads a file that was opened and keeps it, if it is small. The file stands at its beginning
// afterwards.
func (s *small) keep(name string, f *os.File, info os.FileInfo) error {
	if info.Size() > maxSmall {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if int64(len(b)) != st.Size {
		return nil // it is being written to
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) >= maxSmalls {
		clear(s.files) // those that nobody asks for any more among them
	}
	s.files[name] = kept{id: idOf(&st), modified: info.ModTime(), etag: etag(info), content: b}
	return nil
}

// serve answers with what is kept.
func (k kept) serve(w http.ResponseWriter, r *http.Request) {
	for name := range r.Header {
		if name == "Range" || strings.HasPrefix(name, "If-") {
			http.ServeContent(w, r, "", k.modified, bytes.NewReader(k.content))
			return
		}
	}
	header := w.Header()
	header.Set("Accept-Ranges", "bytes")
	header.Set("Content-Length", strconv.Itoa(len(k.content)))
	header.Set("Last-Modified", k.modified.UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(k.content) // the recorder notes the error
	}
}
