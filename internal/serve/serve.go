// Package serve hands out a repository's files over HTTP.
//
// [New] makes the handler, [Run] serves it on a listener until its context
// ends and then lets running answers finish. Any other server of static files
// serves a repository as well; this one needs no configuration, is careful
// about limits, and logs every request.
//
// Only what belongs to a repository is visible: metadata/*.json and files
// below targets/. Names that begin with a dot are not, nor is anything that a
// symbolic link or ".." would reach outside the folder, and folders are not
// listed. Files are sent by the kernel where it can. GET and HEAD, ranges,
// ETag and If-None-Match are understood; nothing is ever written.
//
// A publisher may replace files at any time: an answer that has begun goes on
// with the file it began with. Handlers keep no state and may run in any
// number.
package serve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/repository"
)

// A Handler serves the repository in one folder.
type Handler struct {
	// Metrics count the requests; may be nil. Set before the first one.
	Metrics *Metrics

	root  *os.Root
	log   *slog.Logger
	small small
}

// New returns a handler for the repository in dir. Requests go to log, which
// may be nil.
func New(dir string, log *slog.Logger) (*Handler, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d, err := os.Open(dir)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return &Handler{root: root, log: log, small: small{dir: d, files: map[string]kept{}}}, nil
}

// Close lets go of the folder.
func (h *Handler) Close() error { return errors.Join(h.root.Close(), h.small.dir.Close()) }

// slowest is the rate in bytes per second below which an answer is given up:
// slower readers would hold connections for ever.
const slowest = 4 << 10

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	if h.Metrics != nil {
		h.Metrics.running.Inc()
		defer h.Metrics.running.Dec()
	}
	rec := &recorder{ResponseWriter: w}
	err := h.serve(rec, r)
	if err != nil && rec.status == 0 {
		refuse(rec, err)
	}
	if h.Metrics != nil {
		h.Metrics.observe(r.URL.Path, rec.status, rec.bytes, time.Since(began))
	}
	attrs := append(make([]slog.Attr, 0, 9),
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes),
		slog.Int64("ms", time.Since(began).Milliseconds()), slog.String("remote", r.RemoteAddr))
	if v := r.Header.Get("Range"); v != "" {
		attrs = append(attrs, slog.String("range", v))
	}
	if v := r.UserAgent(); v != "" {
		attrs = append(attrs, slog.String("agent", v))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	h.log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// statusError is an answer without a file.
type statusError struct {
	status int
	why    string
}

func (e statusError) Error() string { return e.why }

var errHidden = statusError{http.StatusNotFound, "not a file of the repository"}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var s statusError
	switch {
	case errors.As(err, &s):
		status = s.status
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		status = http.StatusNotFound
	case errors.Is(err, fs.ErrPermission):
		status = http.StatusForbidden
	}
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", "GET, HEAD")
	}
	w.Header().Set("Cache-Control", "no-store") // what is missing may be published any time
	http.Error(w, http.StatusText(status), status)
}

func (h *Handler) serve(w *recorder, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return statusError{http.StatusMethodNotAllowed, "method not allowed"}
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok || !visible(name) {
		return errHidden
	}
	if k, ok := h.small.get(name); ok {
		label(w, name, k.etag)
		if err := allow(w, maxSmall); err != nil {
			return err
		}
		k.serve(w, r)
		return w.err
	}
	f, err := h.root.Open(name)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) && strings.Contains(p.Err.Error(), "escapes") {
			return errHidden
		}
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errHidden
	}
	if strings.HasPrefix(name, "metadata/") {
		if err := h.small.keep(name, f, info); err != nil {
			return err
		}
	}
	label(w, name, etag(info))
	if err := allow(w, info.Size()); err != nil {
		return err
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
	return w.err
}

// label sets what caches go by.
func label(w http.ResponseWriter, name, etag string) {
	header := w.Header()
	header.Set("ETag", etag)
	header.Set("Content-Type", repository.ContentType(name))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", repository.CacheControl(name))
}

// allow sets the time an answer of size bytes may take.
func allow(w http.ResponseWriter, size int64) error {
	limit := time.Now().Add(time.Minute + time.Duration(size/slowest)*time.Second)
	err := http.NewResponseController(w).SetWriteDeadline(limit)
	if errors.Is(err, http.ErrNotSupported) {
		return nil // a writer of a test
	}
	return err
}

// visible says whether name can be a file of a repository.
func visible(name string) bool {
	if len(name) > 1024 || !fs.ValidPath(name) || strings.ContainsAny(name, "\x00\\") {
		return false
	}
	folder, rest, ok := strings.Cut(name, "/")
	if !ok || strings.HasPrefix(rest, ".") || strings.Contains(rest, "/.") {
		return false
	}
	switch folder {
	case "metadata":
		return !strings.Contains(rest, "/") && path.Ext(rest) == ".json"
	case "targets":
		return true
	}
	return false
}

// etag names a content of a file. Files are replaced and never changed in
// place, so a new content is another inode or has another time.
func etag(info fs.FileInfo) string {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, info.Size(), info.ModTime().UnixNano(), inode)
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	err    error
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	return n, r.note(int64(n), err)
}

// ReadFrom hands files to the connection, which hands them to the kernel.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := io.Copy(r.ResponseWriter, src)
	return n, r.note(n, err)
}

func (r *recorder) note(n int64, err error) error {
	r.bytes += n
	if err != nil && r.err == nil {
		r.err = err
	}
	return err
}
