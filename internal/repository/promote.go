package repository

import (
	"context"
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ErrNoImage: the repository has no such image.
var ErrNoImage = errors.New("no such image in the repository")

func checkChannel(name string) error {
	if !word.MatchString(name) {
		return fmt.Errorf("channel %q: want letters, digits and ._+~:-", name)
	}
	return nil
}

// Promote moves a version of an image to a channel. An empty class means all classes that have
// this version. It returns the images moved, with what channel they were in, and publishes
// nothing if all are there already.
func (r *Repository) Promote(ctx context.Context, name, class, version, channel string, opts PublishOptions) (_ *Publication, moved []Image, err error) {
	opts = opts.withDefaults()
	what := fmt.Sprintf("promote %s %s to %s", name, version, channel)
	if err := checkChannel(channel); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	st, unlock, err := r.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	found := false
	for _, img := range newCatalog(st.targets.Signed.Targets).All() {
		if img.Name != name || img.Version != version || class != "" && img.Class != class {
			continue
		}
		found = true
		if img.Channel == channel {
			continue
		}
		moved = append(moved, img)
		img.Channel = channel
		if err := st.describe(img); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	if !found {
		return nil, nil, fmt.Errorf("%s: %w", what, ErrNoImage)
	}
	if len(moved) > 0 {
		by, err := st.signers(opts.Keys, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP)
		if err == nil {
			err = st.write(ctx, r.store, by, opts.Expiry, opts.Now())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	pub := &Publication{}
	pub.note(st)
	return pub, moved, nil
}
