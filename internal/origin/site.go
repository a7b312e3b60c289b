package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Kinds of what can go wrong, for errors.Is. In every case what was served before is served on.
var (
	// ErrLocked: another process brings this image here.
	ErrLocked = errors.New("another process is at work on this image")
	// ErrOrigin: the origin does not answer, or not with a file.
	ErrOrigin = errors.New("origin gives no image")
	// ErrNotImage: what the origin gave is no disk image of a system like this.
	ErrNotImage = errors.New("not a disk image with the partitions of this system")
	// ErrChecksum: the image is not what its checksum or signature says.
	ErrChecksum = errors.New("checksum or signature does not fit")
	// ErrOlder: the image is older than the copy.
	ErrOlder = errors.New("origin's image is older than the copy")
	// ErrSpace: the disk has no room for it.
	ErrSpace = errors.New("not enough disk space")
)

// A State is what is known of one image. It is kept in a file beside the copies.
type State struct {
	Source
	Checked time.Time `json:"checked,omitzero"` // when the origin was asked last
	Fetched time.Time `json:"fetched,omitzero"` // when the copy was made
	Error   string    `json:"error,omitempty"`  // of the last attempt; empty: it went well

	// What the origin said of the copy.
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`

	Size    int64  `json:"size,omitempty"`    // of the disk image, in bytes
	SHA256  string `json:"sha256,omitempty"`  // of the disk image
	Version string `json:"version,omitempty"` // from its slot manifest, if it has one
	// Checks says how it was verified: "sha256", "signature".
	Checks []string `json:"checks,omitempty"`
}

// A Site is a folder with copies of images.
type Site struct {
	Dir string
	// HTTP asks origins. Nil: system certificates, proxy of the environment.
	HTTP *http.Client
	// AllowOlder takes images that are older than the copy.
	AllowOlder bool
	// Retries is how often a download that breaks off is continued. Zero means 5.
	Retries int
	// Wait is the first pause before it. Zero means one second.
	Wait time.Duration
	// Now is the clock. Nil: the system's.
	Now func() time.Time
	// Free says how many bytes are free below a folder. Nil: the file system says.
	Free func(dir string) (int64, error)
	// Progress is told how far a download has come; may be nil.
	Progress func(done, total int64)
}

// The suffixes of the files of an image, in the order in which they are replaced: who sees a new
// checksum finds the image that it is of.
var suffixes = []string{".firmware", ".dev", "", ".sha"}

// Update looks whether the origin has something else than the copy, and brings it here. It
// returns how things stand afterwards, also with an error, which is noted there.
func (s *Site) Update(ctx context.Context, src Source) (st State, changed bool, err error) {
	if err := src.check(); err != nil {
		return State{}, false, err
	}
	unlock, err := s.lock(src.Name)
	if err != nil {
		return State{}, false, err
	}
	defer unlock()
	st, err = s.load(src.Name)
	if err != nil {
		return State{}, false, err
	}
	if st.Image != src.Image || !s.whole(st) {
		st = State{} // another origin, or a copy that is not what was noted: ask for all of it
	}
	st.Source = src
	j := &job{Site: s, old: st}
	next, changed, err := j.run(ctx)
	if err != nil {
		err = fmt.Errorf("update %s from %s: %w", src.Name, src.Image, err)
		st.Error = err.Error()
	} else {
		st = next
		st.Error = ""
	}
	st.Checked = s.now()
	if serr := s.save(st); serr != nil {
		err = errors.Join(err, serr)
	}
	return st, changed, err
}

// Status returns what is known of all images that were ever asked for, by name. What cannot be
// read is in the error, beside the others in the list.
func (s *Site) Status() ([]State, error) {
	files, err := filepath.Glob(filepath.Join(s.Dir, ".state", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var list []State
	var errs error
	for _, f := range files {
		st, err := s.load(strings.TrimSuffix(filepath.Base(f), ".json"))
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return list, errs
}

func (s *Site) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now().UTC().Truncate(time.Second)
}

// path returns the place of one of an image's files.
func (s *Site) path(name, suffix string) string { return filepath.Join(s.Dir, name+suffix) }

// work returns the place of a file on its way.
func (s *Site) work(name, file string) string { return filepath.Join(s.Dir, ".work", name, file) }

func (s *Site) statePath(name string) string { return filepath.Join(s.Dir, ".state", name+".json") }

// whole says whether the files of the copy are there, with the right size.
func (s *Site) whole(st State) bool {
	for _, suffix := range suffixes {
		info, err := os.Stat(s.path(st.Name, suffix))
		if err != nil || !info.Mode().IsRegular() || suffix == "" && info.Size() != st.Size {
			return false
		}
	}
	return true
}

// load reads the state. One that is not there, or is none, is empty: then the origin is asked for
// all of it.
func (s *Site) load(name string) (State, error) {
	b, err := os.ReadFile(s.statePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return State{Source: Source{Name: name}}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read state: %w", err)
	}
	var st State
	if err := json.Unmarshal(b, &st); err != nil || st.Name != name {
		return State{Source: Source{Name: name}, Error: "the record of it was damaged"}, nil
	}
	return st, nil
}

func (s *Site) save(st State) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := renameio.WriteFile(s.statePath(st.Name), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// lock keeps other processes away from an image. It goes with its holder.
func (s *Site) lock(name string) (unlock func(), err error) {
	for _, dir := range []string{filepath.Join(s.Dir, ".state"), s.work(name, "")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
	}
	f, err := os.OpenFile(s.work(name, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}
