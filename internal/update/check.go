package update

import (
	"context"
	"errors"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// ImageInfo names an image in a result.
type ImageInfo struct {
	Name    string         `json:"name"`
	Version string         `json:"version"`
	BuildID string         `json:"build_id"`
	Slot    bootstate.Slot `json:"slot,omitempty"`
	Size    int64          `json:"size,omitempty"`
}

func info(m *slotimage.Manifest, x bootstate.Slot) ImageInfo {
	return ImageInfo{Name: m.Name, Version: m.Version, BuildID: m.BuildID, Slot: x, Size: m.ImageSize}
}

// CheckResult says what is installed and what there is.
type CheckResult struct {
	Installed ImageInfo `json:"installed"`
	Available ImageInfo `json:"available"`
	Update    bool      `json:"update"`
	// Traffic is what looking has cost.
	Traffic repository.Traffic `json:"traffic"`
}

// Check looks whether there is an update that may be applied. An update that
// would be refused is the error of the refusal.
func (u *Updater) Check(ctx context.Context, c Choice) (*CheckResult, error) {
	var res *CheckResult
	err := u.locked(ctx, 0, func() error {
		s, err := u.begin(ctx)
		if err != nil {
			return err
		}
		known := s.d.Record.Floors
		rel, err := s.find(ctx, c)
		if err := s.storeFloors(ctx, known); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		res = &CheckResult{
			Installed: info(s.manifests[s.d.Running], s.d.Running),
			Available: info(rel.m, ""),
		}
		err = s.admissible(rel.m, c)
		res.Update = err == nil
		res.Traffic = rel.client.Traffic()
		if errors.Is(err, errUpToDate) {
			return nil
		}
		return err
	})
	return res, err
}

// admissible says whether an apply of m would be begun.
func (s *session) admissible(m *slotimage.Manifest, c Choice) error {
	if err := s.wanted(m, c); err != nil {
		return err
	}
	_, err := s.d.PlanWrite(imageOf(m), c.Version != "")
	return s.explain(err)
}

func imageOf(m *slotimage.Manifest) slot.Image {
	return slot.Image{Version: m.Version, BuildID: m.BuildID}
}

// storeFloors keeps the versions of metadata that were seen, so that older ones
// are refused also after a restart.
func (s *session) storeFloors(ctx context.Context, known slot.Floors) error {
	if s.d.Record.Floors == known {
		return nil
	}
	return s.do(ctx, []slot.Step{{Kind: slot.StoreRecord, Record: s.d.Record}})
}
