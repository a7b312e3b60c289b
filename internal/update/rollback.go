package update

import (
	"context"
	"errors"
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// RollbackResult says what a rollback did.
type RollbackResult struct {
	Slot      bootstate.Slot `json:"slot"` // the default now
	Version   string         `json:"version"`
	Rebooting bool           `json:"rebooting"`
}

// Rollback makes the other slot the default, after everything that booting it
// needs was read back: it was committed before, its signature and its whole hash
// tree verify, its kernel image is on the EFI system partition.
func (u *Updater) Rollback(ctx context.Context, reboot bool) (*RollbackResult, error) {
	var res *RollbackResult
	err := u.locked(ctx, 0, func() error {
		s, err := u.begin(ctx)
		if err != nil {
			return err
		}
		plan, err := s.d.PlanRollback()
		if err != nil {
			return s.explain(err)
		}
		// Whoever goes back has reasons: containers do not hold that up.
		if err := u.Machine.KeepContainers(ctx, s.note); err != nil {
			s.note(err.Error())
		}
		if err := s.do(ctx, plan); err != nil {
			return fmt.Errorf("roll back: %w", err)
		}
		other := s.d.Running.Other()
		res = &RollbackResult{Slot: other, Version: s.version(other), Rebooting: reboot}
		if reboot {
			return u.Machine.Reboot(ctx, false)
		}
		return nil
	})
	return res, err
}

// Reboot restarts the device cleanly. It waits for nobody: the lock of an update
// that is at work is respected, because its next step may be a jump.
func (u *Updater) Reboot(ctx context.Context) error {
	return u.locked(ctx, 0, func() error { return u.Machine.Reboot(ctx, false) })
}

// explain adds to a refusal of package slot what this package knows beyond it,
// and gives it its exit code.
func (s *session) explain(err error) error {
	var r *slot.RefusedError
	if !errors.As(err, &r) {
		return err
	}
	if errors.Is(err, slot.ErrNotVerified) {
		for _, x := range []bootstate.Slot{s.d.Running.Other(), s.d.Running} {
			if cause := s.problems[x]; cause != nil {
				if errors.Is(cause, slotimage.ErrEmpty) {
					return cli.Refuse(cli.Refused, fmt.Errorf("%w: %w", err, cause), r.Hint)
				}
				return cli.Refuse(cli.Unverified, fmt.Errorf("%w: %w", err, cause), r.Hint)
			}
		}
		return cli.Refuse(cli.Unverified, err, r.Hint)
	}
	var none *device.NoSlotError
	if errors.As(s.problems[s.d.Running.Other()], &none) {
		return cli.Refuse(cli.Refused, fmt.Errorf("%w: %w", err, none), r.Hint)
	}
	return refused(err)
}
