package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Refresh signs snapshot and timestamp anew, before they expire. Targets and root are signed
// anew as well when their keys are at hand and half of their time is over.
func (r *Repository) Refresh(ctx context.Context, opts PublishOptions) (*Publication, error) {
	opts = opts.withDefaults()
	st, unlock, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now, life := opts.Now(), opts.Expiry.withDefaults()
	by, err := st.signers(opts.Keys, metadata.SNAPSHOT, metadata.TIMESTAMP)
	if err != nil {
		return nil, fmt.Errorf("refresh: %w", err)
	}
	if st.timestamp.Signed.Version == 0 || st.outdated || now.Add(life.Targets/2).After(st.targets.Signed.Expires) {
		keys, err := opts.Keys.need(&st.root.Signed, metadata.TARGETS)
		switch {
		case err == nil:
			by[metadata.TARGETS] = keys
		case st.timestamp.Signed.Version == 0:
			return nil, fmt.Errorf("refresh: nothing has been published yet: %w", err)
		case st.outdated || !st.targets.Signed.Expires.After(now):
			return nil, fmt.Errorf("refresh: the list of images is not good any more, expired %s: %w",
				st.targets.Signed.Expires.Format(time.RFC3339), err)
		}
	}
	if now.Add(life.Root / 2).After(st.root.Signed.Expires) {
		keys, err := opts.Keys.need(&st.root.Signed, metadata.ROOT)
		if err == nil {
			err = st.writeRoot(ctx, r.store, &st.root.Signed, keys, now.Add(life.Root))
		} else if errors.Is(err, ErrNoKeys) {
			err = nil // the caller is told when it expires
		}
		if err != nil {
			return nil, fmt.Errorf("refresh: %w", err)
		}
	}
	if err := st.write(ctx, r.store, by, opts.Expiry, now); err != nil {
		return nil, fmt.Errorf("refresh: %w", err)
	}
	pub := &Publication{}
	pub.note(st)
	return pub, nil
}
