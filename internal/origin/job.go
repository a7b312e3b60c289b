package origin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/repository"
)

// job is one Update at work.
type job struct {
	*Site
	old State
}

func (j *job) src() Source { return j.old.Source }

// file returns the place of a file on its way.
func (j *job) file(name string) string { return j.work(j.src().Name, name) }

func (j *job) run(ctx context.Context) (State, bool, error) {
	if err := j.clear(); err != nil { // of a run that was killed: it may have all the room there is
		return State{}, false, err
	}
	p, err := j.download(ctx)
	if errors.Is(err, errUnchanged) {
		return j.old, false, nil
	}
	if err != nil {
		return State{}, false, err
	}
	next := State{Source: j.src(), ETag: p.ETag, LastModified: p.LastModified, Fetched: j.now()}
	if next.Checks, err = j.verify(ctx); err == nil {
		err = j.unpack(ctx, &next)
	}
	if err == nil && !j.AllowOlder {
		err = j.newer(next)
	}
	if isFull(err) {
		err = fmt.Errorf("%w: %w", ErrSpace, err)
	}
	if err != nil {
		// What is wrong with it will not get better: the next attempt asks for all of it.
		if !errors.Is(err, ErrOrigin) && !errors.Is(err, ErrSpace) && ctx.Err() == nil {
			err = errors.Join(err, j.discard())
		}
		return State{}, false, errors.Join(err, j.clear())
	}
	changed := next.SHA256 != j.old.SHA256
	if err := j.publish(); err != nil {
		return State{}, false, err
	}
	return next, changed, j.discard()
}

var digest = regexp.MustCompile(`(?m)^([0-9a-fA-F]{64})(\s|$)`)

// verify checks what was downloaded against what the origin publishes beside it.
func (j *job) verify(ctx context.Context) (checks []string, err error) {
	sums, err := j.small(ctx, ".sha256")
	if err != nil {
		return nil, err
	}
	if sums != nil {
		m := digest.FindSubmatch(sums)
		if m == nil {
			return nil, fmt.Errorf("%w: %s.sha256 has no SHA-256 in it", ErrOrigin, j.src().Image)
		}
		sum, err := sumFile(ctx, j.file(partFile))
		if err != nil {
			return nil, err
		}
		if !strings.EqualFold(sum, string(m[1])) {
			return nil, fmt.Errorf("%w: SHA-256 begins %.16s, published is %.16s", ErrChecksum, sum, m[1])
		}
		checks = append(checks, "sha256")
	}
	if j.src().Keyring == "" {
		return checks, nil
	}
	if err := j.signed(ctx, sums); err != nil {
		return nil, err
	}
	return append(checks, "signature"), nil
}

func sumFile(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, contextReader(ctx, f))
	return hex.EncodeToString(h.Sum(nil)), err
}

// contextReader ends reading with a context.
func contextReader(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(b)
	})
}

// newer refuses an image that is older than the copy: somebody may have got an old one to the
// origin, or in between.
func (j *job) newer(next State) error {
	switch {
	case next.Version != "" && j.old.Version != "":
		if repository.CompareVersions(next.Version, j.old.Version) < 0 {
			return fmt.Errorf("%w: version %s, here is %s", ErrOlder, next.Version, j.old.Version)
		}
	case next.LastModified != "" && j.old.LastModified != "":
		a, err1 := http.ParseTime(next.LastModified)
		b, err2 := http.ParseTime(j.old.LastModified)
		if err1 == nil && err2 == nil && a.Before(b) {
			return fmt.Errorf("%w: of %s, here is that of %s", ErrOlder, a.Format(time.RFC3339), b.Format(time.RFC3339))
		}
	}
	return nil
}

// room says whether the disk has room for so many bytes more. Less than nothing is not known.
func (j *job) room(bytes int64) error {
	free := j.Free
	if free == nil {
		free = freeBytes
	}
	have, err := free(j.Dir)
	if err != nil {
		return err
	}
	// What is left stays for logs and for who else is there.
	const spare = 64 << 20
	if bytes > 0 && bytes+spare > have {
		return fmt.Errorf("%w: %d MiB are needed, %d MiB are free", ErrSpace, (bytes+spare)>>20, have>>20)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look for free space in %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// publish puts the new files in the places of the old ones.
func (j *job) publish() error {
	for _, suffix := range suffixes {
		if err := os.Rename(j.file("new"+suffix), j.path(j.src().Name, suffix)); err != nil {
			return fmt.Errorf("replace copy: %w", err)
		}
	}
	d, err := os.Open(j.Dir)
	if err != nil {
		return fmt.Errorf("replace copy: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// clear removes files that are not going to be published.
func (j *job) clear() error {
	left, err := filepath.Glob(j.file("new") + "*")
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}
