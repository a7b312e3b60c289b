package repository

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// PruneOptions of [Repository.Prune].
type PruneOptions struct {
	PublishOptions
	Keep   int           // versions to keep in each channel, the newest ones; at least 1
	Grace  time.Duration // how long files stay that readers may still want; zero: [PruneGrace]
	DryRun bool          // only say what would be done
}

// PruneGrace is how long Prune leaves files in place that are no longer listed: as long as the
// timestamp that listed them may be held by a cache, or a device takes to fetch an image.
const PruneGrace = 7 * 24 * time.Hour

// A Pruned is what [Repository.Prune] did.
type Pruned struct {
	Images []Image `json:"images"`  // no longer listed
	Files  int     `json:"files"`   // removed
	Bytes  int64   `json:"bytes"`   // in them
	Later  int     `json:"later"`   // not listed either, but too young to remove
	DryRun bool    `json:"dry_run"` // nothing was done
}

// Prune takes old images off the list, and removes files that have not been listed for the grace
// time: those of images, and metadata that was replaced. Root metadata stays for ever, because
// devices go from one to the next.
func (r *Repository) Prune(ctx context.Context, opts PruneOptions) (*Pruned, error) {
	opts.PublishOptions = opts.PublishOptions.withDefaults()
	if opts.Grace == 0 {
		opts.Grace = PruneGrace
	}
	st, unlock, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	done := &Pruned{Images: surplus(newCatalog(st.targets.Signed.Targets), max(1, opts.Keep)), DryRun: opts.DryRun}
	for _, img := range done.Images {
		for _, f := range []File{img.Manifest, img.Index, img.Blob} {
			delete(st.targets.Signed.Targets, f.Path)
		}
	}
	if len(done.Images) > 0 && !opts.DryRun {
		by, err := st.signers(opts.Keys, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP)
		if err == nil {
			err = st.write(ctx, r.store, by, opts.Expiry, opts.Now())
		}
		if err != nil {
			return nil, fmt.Errorf("prune: %w", err)
		}
	}
	remove, err := st.garbage(ctx, r.store, opts.Now().Add(-opts.Grace), done)
	if err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	for _, f := range remove {
		if !opts.DryRun {
			if err := r.store.Remove(ctx, f.Name); err != nil {
				return nil, fmt.Errorf("prune: %w", err)
			}
		}
		done.Files++
		done.Bytes += f.Size
	}
	return done, nil
}

// surplus returns the images that are not among the newest keep of their channel, for each kind
// of device.
func surplus(c *Catalog, keep int) []Image {
	type line struct{ name, class, arch, channel string }
	count := map[line]int{}
	var out []Image
	all := c.All()
	for i := len(all) - 1; i >= 0; i-- {
		img := all[i]
		l := line{img.Name, img.Class, img.Arch, img.Channel}
		if count[l]++; count[l] > keep {
			out = append(out, img)
		}
	}
	return out
}

// garbage returns the files that no metadata has listed since before; later counts those that
// some had.
func (st *state) garbage(ctx context.Context, s Store, before time.Time, done *Pruned) ([]Entry, error) {
	files, err := s.List(ctx, "metadata")
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{} // by what is current, or was since before
	var remove []Entry
	for _, role := range []struct {
		name    string
		current int64
	}{{metadata.SNAPSHOT, st.snapshot.Signed.Version}, {metadata.TARGETS, st.targets.Signed.Version}} {
		for _, f := range files {
			version, of := splitVersioned(f.Name)
			if of != role.name {
				continue
			}
			current := version >= role.current
			switch {
			case !current && replaced(files, role.name, version).Before(before):
				remove = append(remove, f)
				continue
			case !current:
				done.Later++
			}
			if role.name == metadata.TARGETS {
				if err := list(ctx, s, f.Name, listed); err != nil {
					return nil, err
				}
			}
		}
	}
	note(listed, st.targets.Signed.Targets)
	if files, err = s.List(ctx, "targets"); err != nil {
		return nil, err
	}
	for _, f := range files {
		switch {
		case listed[f.Name]:
		case f.ModTime.Before(before):
			remove = append(remove, f)
		default:
			done.Later++ // of a publisher that was killed, to go on with
		}
	}
	return remove, nil
}

// replaced returns when the version of a role after this one was put there. A mirror has not seen
// all of them.
func replaced(files []Entry, role string, version int64) (at time.Time) {
	next := int64(math.MaxInt64)
	for _, f := range files {
		if v, of := splitVersioned(f.Name); of == role && v > version && v < next {
			next, at = v, f.ModTime
		}
	}
	return at
}

// list notes what a targets file lists. Who signed it does not matter: it only keeps files.
func list(ctx context.Context, s Store, name string, listed map[string]bool) error {
	b, err := readAll(ctx, s, name)
	if err != nil {
		return err
	}
	m, err := metadata.Targets().FromBytes(b)
	if err != nil {
		return damaged(s, strings.TrimPrefix(name, "metadata/"), err)
	}
	note(listed, m.Signed.Targets)
	return nil
}

func note(listed map[string]bool, targets map[string]*metadata.TargetFiles) {
	for p, t := range targets {
		listed[File{Path: p, SHA256: hex.EncodeToString(t.Hashes["sha256"])}.url()] = true
	}
}
