package update

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/slot"
)

// How long the operations of the boot wait for the lock. Commit must not be
// taken for ill health because somebody asks for updates at the same moment, of
// a server that does not answer; the time limit of its unit is what ends it.
const (
	commitWait = time.Hour
	failedWait = 20 * time.Second
)

// CommitResult says what a commit did.
type CommitResult struct {
	Slot    bootstate.Slot `json:"slot"`
	Version string         `json:"version"`
	// Outcome is "committed" for a trial that ended well, "good" for a committed
	// slot that booted well, "unchanged" where both was known.
	Outcome string `json:"outcome"`
}

// Commit makes the running trial the default, or marks a committed slot good. It
// runs once in every boot, after the system has proved itself; doing it again
// changes nothing.
func (u *Updater) Commit(ctx context.Context) (*CommitResult, error) {
	var res *CommitResult
	commit := func() error {
		s, err := u.begin(ctx)
		if err != nil {
			return err
		}
		trial := s.d.OnTrial()
		plan, err := s.d.PlanHealthy()
		if err != nil {
			return s.explain(err)
		}
		if err := s.do(ctx, plan); err != nil {
			return fmt.Errorf("commit slot %s: %w", s.d.Running, err)
		}
		res = &CommitResult{Slot: s.d.Running, Version: s.version(s.d.Running), Outcome: "unchanged"}
		switch {
		case trial:
			res.Outcome = "committed"
		case len(plan) > 0:
			res.Outcome = "good"
		}
		return nil
	}
	err := u.locked(ctx, 0, commit)
	var busy *cli.Error
	if errors.As(err, &busy) && busy.Code == cli.Locked {
		u.Progress.Note("%v; waiting for it to end", err)
		err = u.locked(ctx, commitWait, commit)
	}
	return res, err
}

// BootFailed decides what becomes of a boot that will not complete: in a trial
// the reason is remembered and the device goes back to the old slot; a committed
// slot is restarted only where the boot loader can fall back to the other one.
// A device that nobody can reach must get here whatever else is broken, so
// nothing but the reboot itself is allowed to stop it.
func (u *Updater) BootFailed(ctx context.Context) error {
	unlock, err := lock(ctx, u.Lock, failedWait)
	if err != nil {
		u.Progress.Note("%v; going on without it", err)
	} else {
		defer unlock()
	}
	reason := strings.Join(u.Machine.Failures(ctx), ", ")
	if reason == "" {
		reason = "boot was not complete in time"
	}
	u.Progress.Note("boot failed: %s", reason)

	s, err := u.open()
	if err != nil {
		dev, derr := u.Machine.Device()
		if derr == nil && dev.Trial {
			u.Progress.Note("%v; this is a trial: rebooting", err)
			return errors.Join(err, u.Machine.Reboot(ctx, true))
		}
		return fmt.Errorf("staying up, it is not known what there is to fall back to: %w", err)
	}
	trial := s.d.OnTrial()
	plan, err := s.d.PlanUnhealthy(reason)
	if err != nil {
		return s.explain(err)
	}
	if len(plan) == 0 {
		u.Progress.Note("slot %s (%s) has proved itself in this boot: it stays up", s.d.Running, s.version(s.d.Running))
		return nil
	}
	reboot := false
	var failed error
	for _, st := range plan {
		if st.Kind == slot.Reboot {
			reboot = true
			continue
		}
		if err := s.do(ctx, []slot.Step{st}); err != nil {
			u.Progress.Note("%v", err)
			failed = errors.Join(failed, err)
		}
	}
	if !reboot {
		u.Progress.Note("slot %s stays up: there is no other slot to fall back to", s.d.Running)
		return failed
	}
	if trial {
		u.Progress.Note("trial of slot %s (%s) failed: rebooting into slot %s", s.d.Running, s.version(s.d.Running), s.d.Running.Other())
	} else {
		u.Progress.Note("slot %s (%s) did not boot well, %d tries left: rebooting", s.d.Running, s.version(s.d.Running), s.d.State.Slot(s.d.Running).Tries)
	}
	return errors.Join(failed, u.Machine.Reboot(ctx, true))
}

// version is the version in a slot, empty where it is not known.
func (s *session) version(x bootstate.Slot) string {
	if m := s.manifests[x]; m != nil {
		return m.Version
	}
	return ""
}
