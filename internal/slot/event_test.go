package slot_test

import (
	"errors"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
	"github.com/google/go-cmp/cmp"
)

const (
	a = bootstate.A
	b = bootstate.B
)

func st(status bootstate.Status, tries int, good bool) bootstate.SlotState {
	return bootstate.SlotState{Status: status, Tries: tries, Good: good}
}

var (
	empty     = st(bootstate.Empty, 0, false)
	written   = st(bootstate.Written, 0, false)
	trial     = st(bootstate.Trial, 0, false)
	failed    = st(bootstate.Failed, 0, false)
	proven    = st(bootstate.Committed, 3, true)
	fresh     = st(bootstate.Committed, 3, false)
	exhausted = st(bootstate.Committed, 0, false)
)

func state(def, once bootstate.Slot, sa, sb bootstate.SlotState) bootstate.State {
	return bootstate.State{Default: def, Once: once, A: sa, B: sb}
}

func TestApply(t *testing.T) {
	for _, c := range []struct {
		name    string
		from    bootstate.State
		running bootstate.Slot
		event   slot.Event
		want    bootstate.State
		err     error
	}{
		{"first write", state(a, "", proven, empty), a, slot.BeginWrite, state(a, "", proven, empty), nil},
		{"write over the old slot", state(a, "", proven, proven), a, slot.BeginWrite, state(a, "", proven, empty), nil},
		{"write drops a pending trial", state(a, b, proven, trial), a, slot.BeginWrite, state(a, "", proven, empty), nil},
		{"write from the fallback makes it the default", state(a, "", exhausted, proven), b, slot.BeginWrite, state(b, "", empty, proven), nil},
		{"write drops a pending rollback", state(b, "", proven, fresh), a, slot.BeginWrite, state(a, "", proven, empty), nil},
		{"unproven with a fallback", state(a, "", fresh, proven), a, slot.BeginWrite, bootstate.State{}, slot.ErrUnproven},
		{"unproven without a fallback", state(a, "", fresh, failed), a, slot.BeginWrite, state(a, "", fresh, empty), nil},
		{"write on trial", state(a, "", proven, trial), b, slot.BeginWrite, bootstate.State{}, slot.ErrOnTrial},
		{"write from a failed slot", state(a, "", proven, failed), b, slot.BeginWrite, bootstate.State{}, slot.ErrNotCommitted},

		{"written", state(a, "", proven, empty), a, slot.EndWrite, state(a, "", proven, written), nil},
		{"written twice", state(a, "", proven, written), a, slot.EndWrite, bootstate.State{}, slot.ErrNotWritten},

		{"trial", state(a, "", proven, written), a, slot.BeginTrial, state(a, "", proven, trial), nil},
		{"trial once", state(a, "", proven, written), a, slot.BeginTrialOnce, state(a, b, proven, trial), nil},
		{"trial from slot b", state(b, "", written, proven), b, slot.BeginTrialOnce, state(b, a, trial, proven), nil},
		{"trial of nothing", state(a, "", proven, empty), a, slot.BeginTrial, bootstate.State{}, slot.ErrNotWritten},
		{"trial of a failed slot", state(a, "", proven, failed), a, slot.BeginTrialOnce, bootstate.State{}, slot.ErrNotWritten},
		{"trial of a committed slot", state(a, "", proven, proven), a, slot.BeginTrial, bootstate.State{}, slot.ErrNotWritten},
		{"cancel", state(a, b, proven, trial), a, slot.CancelTrial, state(a, "", proven, written), nil},
		{"cancel nothing", state(a, "", proven, written), a, slot.CancelTrial, bootstate.State{}, slot.ErrNotOnTrial},

		{"commit", state(a, "", proven, trial), b, slot.Commit, state(b, "", proven, proven), nil},
		{"commit keeps the fallback's tries", state(a, "", fresh, trial), b, slot.Commit, state(b, "", fresh, proven), nil},
		{"commit a failed slot", state(a, "", proven, failed), b, slot.Commit, bootstate.State{}, slot.ErrNotOnTrial},
		{"commit from the old slot", state(a, "", proven, trial), a, slot.Commit, bootstate.State{}, slot.ErrNotOnTrial},

		{"own trial failed", state(a, "", proven, trial), b, slot.TrialFailed, state(a, "", proven, failed), nil},
		{"other trial failed", state(a, b, proven, trial), a, slot.TrialFailed, state(a, "", proven, failed), nil},
		{"no trial failed", state(a, "", proven, proven), a, slot.TrialFailed, bootstate.State{}, slot.ErrNotOnTrial},

		{"roll back", state(b, "", proven, proven), b, slot.Rollback, state(a, "", fresh, proven), nil},
		{"roll back gives tries again", state(b, "", exhausted, proven), b, slot.Rollback, state(a, "", fresh, proven), nil},
		{"roll back to nothing", state(a, "", proven, empty), a, slot.Rollback, bootstate.State{}, slot.ErrNotCommitted},
		{"roll back to a failed slot", state(a, "", proven, failed), a, slot.Rollback, bootstate.State{}, slot.ErrNotCommitted},
		{"roll back to a written slot", state(a, "", proven, written), a, slot.Rollback, bootstate.State{}, slot.ErrNotCommitted},
		{"roll back on trial", state(a, "", proven, trial), b, slot.Rollback, bootstate.State{}, slot.ErrOnTrial},

		{"good", state(a, "", fresh, empty), a, slot.MarkGood, state(a, "", proven, empty), nil},
		{"good as fallback leaves the default", state(a, "", exhausted, fresh), b, slot.MarkGood, state(a, "", exhausted, proven), nil},
		{"good on trial", state(a, "", proven, trial), b, slot.MarkGood, bootstate.State{}, slot.ErrOnTrial},
	} {
		got, err := slot.Apply(c.from, c.running, c.event)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: Apply = %v, want %v", c.name, err, c.err)
			continue
		}
		want := c.want
		if c.err != nil {
			want = c.from
			var refused *slot.RefusedError
			if !errors.As(err, &refused) || refused.Event != c.event || refused.Why == "" {
				t.Errorf("%s: Apply = %#v, want a *RefusedError of the event", c.name, err)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: Apply (-want +got):\n%s", c.name, d)
		}
	}
}

func TestApplyInternalErrors(t *testing.T) {
	ok := state(a, "", proven, empty)
	for name, f := range map[string]func() error{
		"no running slot": func() error { _, err := slot.Apply(ok, "", slot.MarkGood); return err },
		"unknown event":   func() error { _, err := slot.Apply(ok, a, "sing"); return err },
		"broken state":    func() error { _, err := slot.Apply(bootstate.State{}, a, slot.MarkGood); return err },
	} {
		err := f()
		var refused *slot.RefusedError
		if err == nil || errors.As(err, &refused) {
			t.Errorf("%s: Apply = %v, want an internal error", name, err)
		}
	}
}

func TestCanFallBack(t *testing.T) {
	for _, c := range []struct {
		s       bootstate.State
		running bootstate.Slot
		want    bool
	}{
		{state(a, "", fresh, empty), a, false},
		{state(a, "", fresh, failed), a, false},
		{state(a, "", fresh, proven), a, true},
		{state(a, "", fresh, exhausted), a, false},
		{state(a, "", exhausted, fresh), b, false},
		{state(a, "", exhausted, trial), b, true},
		{state(a, "", proven, failed), b, true},
	} {
		if got := slot.CanFallBack(c.s, c.running); got != c.want {
			t.Errorf("CanFallBack(%+v, %s) = %v, want %v", c.s, c.running, got, c.want)
		}
	}
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name    string
		s       bootstate.State
		running bootstate.Slot
		want    bootstate.State
		failure bool
	}{
		{"ended", state(a, "", fresh, trial), a, state(a, "", fresh, failed), true},
		{"not begun", state(a, b, fresh, trial), a, state(a, b, fresh, trial), false},
		{"in it", state(a, "", fresh, trial), b, state(a, "", fresh, trial), false},
		{"none", state(a, "", fresh, written), a, state(a, "", fresh, written), false},
		{"two trials", state(a, "", trial, trial), a, state(a, "", trial, trial), false},
	} {
		got, failure := slot.Reconcile(c.s, c.running)
		if d := cmp.Diff(c.want, got); d != "" || (failure != nil) != c.failure {
			t.Errorf("%s: Reconcile = failure %v, want %v (-want +got):\n%s", c.name, failure, c.failure, d)
		}
	}
}
