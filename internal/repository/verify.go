package repository

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/slotimage"
)

// A RoleState is how one role's metadata stands.
type RoleState struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Expires   time.Time `json:"expires"`
	Expired   bool      `json:"expired"`
	Keys      []string  `json:"keys"` // IDs, as package key has them
	Threshold int       `json:"threshold"`
}

// A Report is what [Repository.Verify] found.
type Report struct {
	Roles    []RoleState `json:"roles"`
	Images   []Image     `json:"images"`
	Files    int         `json:"files"`    // read and found right
	Bytes    int64       `json:"bytes"`    // in them
	Unlisted int         `json:"unlisted"` // files of images that are not listed
	Problems []string    `json:"problems"` // empty: devices can have all of it
}

// VerifyOptions of [Repository.Verify].
type VerifyOptions struct {
	Accepted []ed25519.PublicKey // keys of slot manifests; none: they are not checked
	Quick    bool                // look at the size of blobs only
	Now      func() time.Time    // nil: the system's clock
	Progress Progress            // may be nil
}

// Verify reads the repository as all devices together would: every version of the root from the
// first, the current metadata, and every file of every image. What is wrong is in the report;
// the error is about reading.
func (r *Repository) Verify(ctx context.Context, opts VerifyOptions) (*Report, error) {
	o := PublishOptions{Now: opts.Now, Progress: opts.Progress}.withDefaults()
	report := &Report{Roles: []RoleState{}, Images: []Image{}, Problems: []string{}}
	st, err := load(ctx, r.store)
	if errors.Is(err, ErrDamaged) {
		report.problem("%v", err)
		return report, nil
	}
	if err != nil {
		return nil, err
	}
	if err := report.roots(ctx, r.store, st); err != nil {
		return nil, err
	}
	report.roles(st, o.Now())
	cat := newCatalog(st.targets.Signed.Targets)
	report.Problems = append(report.Problems, cat.Problems()...)
	listed := map[string]bool{}
	note(listed, st.targets.Signed.Targets)
	files, err := r.store.List(ctx, "targets")
	if err != nil {
		return nil, err
	}
	size := map[string]int64{}
	for _, f := range files {
		size[f.Name] = f.Size
		if !listed[f.Name] {
			report.Unlisted++
		}
	}
	var total int64
	for _, img := range cat.All() {
		total += img.Blob.Length
	}
	if !opts.Quick {
		o.Progress.Stage("verify images", total)
		defer o.Progress.Done()
	}
	for _, img := range cat.All() {
		report.Images = append(report.Images, img)
		for _, f := range []File{img.Manifest, img.Index, img.Blob} {
			if n, ok := size[f.url()]; !ok || n != f.Length {
				report.problem("%s: %d bytes, listed are %d", f.Path, n, f.Length)
				continue
			}
			if f == img.Blob && opts.Quick {
				continue
			}
			if err := report.file(ctx, r.store, img, f, opts.Accepted, o.Progress); err != nil {
				return nil, err
			}
		}
	}
	return report, nil
}

func (r *Report) problem(format string, a ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, a...))
}

// roots goes the way of a device that has the oldest root.
func (r *Report) roots(ctx context.Context, s Store, st *state) error {
	files, err := s.List(ctx, "metadata")
	if err != nil {
		return err
	}
	first := st.used[metadata.ROOT]
	for _, f := range files {
		if version, role := splitVersioned(f.Name); role == metadata.ROOT {
			first = min(first, version)
		}
	}
	var trusted *trustedmetadata.TrustedMetadata
	for version := first; version <= st.used[metadata.ROOT]; version++ {
		b, err := readAll(ctx, s, versioned(metadata.ROOT, version))
		if err == nil && trusted == nil {
			trusted, err = trustedmetadata.New(b)
		} else if err == nil {
			_, err = trusted.UpdateRoot(b)
		}
		if err != nil {
			r.problem("%d.root.json, which devices have to go through: %v", version, tidy{err})
			return nil
		}
	}
	return nil
}

func (r *Report) roles(st *state, now time.Time) {
	root := &st.root.Signed
	for _, role := range []struct {
		name    string
		version int64
		expires time.Time
	}{
		{metadata.ROOT, root.Version, root.Expires},
		{metadata.TARGETS, st.targets.Signed.Version, st.targets.Signed.Expires},
		{metadata.SNAPSHOT, st.snapshot.Signed.Version, st.snapshot.Signed.Expires},
		{metadata.TIMESTAMP, st.timestamp.Signed.Version, st.timestamp.Signed.Expires},
	} {
		s := RoleState{Role: role.name, Version: role.version, Expires: role.expires, Expired: !role.expires.After(now), Keys: keyIDs(root, role.name)}
		if r := root.Roles[role.name]; r != nil {
			s.Threshold = r.Threshold
		}
		r.Roles = append(r.Roles, s)
		if s.Expired {
			r.problem("%s metadata has expired at %s: devices refuse it", s.Role, s.Expires.Format(time.RFC3339))
		}
	}
	if st.outdated {
		r.problem("the root has new keys that have not signed yet: an exchange of keys was cut short, refresh finishes it")
	}
}

// file reads one file of an image.
func (r *Report) file(ctx context.Context, s Store, img Image, f File, accepted []ed25519.PublicKey, progress Progress) error {
	body, err := s.Open(ctx, f.url())
	if errors.Is(err, fs.ErrNotExist) {
		r.problem("%s: %v", f.Path, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", f.Path, err)
	}
	sum := sha256.New()
	var content bytes.Buffer
	to := io.MultiWriter(sum, meter{progress})
	if f != img.Blob {
		to = io.MultiWriter(sum, &content)
	}
	_, err = io.Copy(to, readerContext{ctx, body})
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("verify %s: %w", f.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		r.problem("%s: its SHA-256 is not the listed one", f.Path)
		return nil
	}
	switch f {
	case img.Index:
		x, err := chunk.Parse(content.Bytes())
		if err == nil && x.Size() != img.Blob.Length {
			err = fmt.Errorf("it is for %d bytes, the image has %d", x.Size(), img.Blob.Length)
		}
		if err != nil {
			r.problem("%s: %v", f.Path, err)
		}
	case img.Manifest:
		b, err := slotimage.ParseBlock(content.Bytes())
		if err == nil && len(accepted) > 0 {
			_, err = b.Verify(accepted)
		}
		if err != nil {
			r.problem("%s: %v", f.Path, err)
		}
	}
	r.Files++
	r.Bytes += f.Length
	return nil
}
