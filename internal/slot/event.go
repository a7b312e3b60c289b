package slot

import (
	"errors"
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
)

// Event is something that happens to the slots.
type Event string

// The events. "Other" is the slot that does not run.
const (
	BeginWrite     Event = "begin write"      // the other slot is about to be overwritten
	EndWrite       Event = "end write"        // the other slot is complete and verified
	BeginTrial     Event = "begin trial"      // the other slot is about to be started by kexec
	BeginTrialOnce Event = "begin trial once" // the same, by a one-shot boot entry
	CancelTrial    Event = "cancel trial"     // the jump did not happen; the other slot is as written
	Commit         Event = "commit"           // the running trial has proved itself
	TrialFailed    Event = "trial failed"     // the running trial has not, or the other slot's trial is over
	Rollback       Event = "roll back"        // make the other slot the default
	MarkGood       Event = "mark good"        // the running committed slot booted well
)

// Events lists every event.
var Events = [...]Event{BeginWrite, EndWrite, BeginTrial, BeginTrialOnce, CancelTrial, Commit, TrialFailed, Rollback, MarkGood}

// Why an event is refused; callers branch on these with errors.Is.
var (
	// ErrOnTrial: the running slot is on trial; it must be committed or end first.
	ErrOnTrial = errors.New("running slot is on trial")
	// ErrNotOnTrial: there is no trial to commit or to end.
	ErrNotOnTrial = errors.New("no slot is on trial")
	// ErrNotCommitted: the slot in question was never committed.
	ErrNotCommitted = errors.New("slot is not committed")
	// ErrUnproven: the running slot has not booted well yet and the other one is its fallback.
	ErrUnproven = errors.New("running slot has not proved itself since it was started")
	// ErrNotWritten: the other slot holds nothing that could be started.
	ErrNotWritten = errors.New("other slot holds no complete image")
	// ErrNotVerified: the other slot's manifest does not verify.
	ErrNotVerified = errors.New("slot manifest does not verify")
	// ErrFailedBefore: the version failed on this device before.
	ErrFailedBefore = errors.New("version failed before")
	// ErrStatic: the device has one slot only.
	ErrStatic = errors.New("device has no second slot")
)

// RefusedError says why an operation is not allowed now, and what to do.
type RefusedError struct {
	Event Event
	Err   error  // one of the errors above
	Why   string // the cause in words, with slot and status
	Hint  string // what the operator can do; may be empty
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %s", e.Event, e.Why) }

// Unwrap returns the cause, for errors.Is.
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(ev Event, err error, hint, format string, a ...any) error {
	return &RefusedError{Event: ev, Err: err, Why: fmt.Sprintf(format, a...), Hint: hint}
}

// Apply returns the boot state after ev, seen from the running slot. It is one write
// of the boot state. The error is a [*RefusedError], or an internal error for an
// argument that makes no sense.
func Apply(s bootstate.State, running bootstate.Slot, ev Event) (bootstate.State, error) {
	if !running.Valid() {
		return s, fmt.Errorf("internal error: %s: running slot is %q", ev, running)
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("internal error: %s: %w", ev, err)
	}
	transition, ok := transitions[ev]
	if !ok {
		return s, fmt.Errorf("internal error: unknown event %q", ev)
	}
	next, err := transition(s, running)
	if err != nil {
		return s, err
	}
	return next, nil
}

type transition func(s bootstate.State, running bootstate.Slot) (bootstate.State, error)

var transitions = map[Event]transition{
	BeginWrite:  beginWrite,
	EndWrite:    endWrite,
	BeginTrial:  func(s bootstate.State, r bootstate.Slot) (bootstate.State, error) { return beginTrial(s, r, false) },
	CancelTrial: cancelTrial,
	Commit:      commit,
	TrialFailed: trialFailed,
	Rollback:    rollback,
	MarkGood:    markGood,
	BeginTrialOnce: func(s bootstate.State, r bootstate.Slot) (bootstate.State, error) {
		return beginTrial(s, r, true)
	},
}

const (
	hintTrial = "run os-update --commit if the system is healthy, or reboot to go back to the old slot"
	hintGood  = "wait until the boot is complete, or run os-update --commit if the system is healthy"
)

// needCommitted refuses ev unless the running slot is committed.
func needCommitted(ev Event, s bootstate.State, running bootstate.Slot) error {
	switch st := s.Slot(running).Status; st {
	case bootstate.Committed:
		return nil
	case bootstate.Trial:
		return refuse(ev, ErrOnTrial, hintTrial, "running slot %s is on trial", running)
	default:
		return refuse(ev, ErrNotCommitted, "reboot to get back to a committed slot", "running slot %s is not committed but %s", running, st)
	}
}

func beginWrite(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	if err := needCommitted(BeginWrite, s, running); err != nil {
		return s, err
	}
	other := running.Other()
	// Writing takes the other slot away as a fallback, so what runs must not need one.
	if !s.Slot(running).Good && s.Slot(other).Status == bootstate.Committed {
		return s, refuse(BeginWrite, ErrUnproven, hintGood, "running slot %s has not completed a healthy boot yet and slot %s is its fallback", running, other)
	}
	s.Default = running
	s.Once = bootstate.None
	return s.With(other, bootstate.SlotState{Status: bootstate.Empty}), nil
}

func endWrite(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	if err := needCommitted(EndWrite, s, running); err != nil {
		return s, err
	}
	other := running.Other()
	if st := s.Slot(other).Status; st != bootstate.Empty {
		return s, refuse(EndWrite, ErrNotWritten, "", "slot %s is not being written but %s", other, st)
	}
	return s.With(other, bootstate.SlotState{Status: bootstate.Written}), nil
}

func beginTrial(s bootstate.State, running bootstate.Slot, once bool) (bootstate.State, error) {
	ev := BeginTrial
	if once {
		ev = BeginTrialOnce
	}
	if err := needCommitted(ev, s, running); err != nil {
		return s, err
	}
	other := running.Other()
	if st := s.Slot(other).Status; st != bootstate.Written {
		return s, refuse(ev, ErrNotWritten, "run os-update --apply", "slot %s holds no image that waits for its trial: it is %s", other, st)
	}
	s.Default = running
	s.Once = bootstate.None
	if once {
		s.Once = other
	}
	return s.With(other, bootstate.SlotState{Status: bootstate.Trial}), nil
}

func cancelTrial(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	other := running.Other()
	if st := s.Slot(other).Status; st != bootstate.Trial {
		return s, refuse(CancelTrial, ErrNotOnTrial, "", "slot %s is not on trial but %s", other, st)
	}
	s.Once = bootstate.None
	return s.With(other, bootstate.SlotState{Status: bootstate.Written}), nil
}

func commit(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	if st := s.Slot(running).Status; st != bootstate.Trial {
		return s, refuse(Commit, ErrNotOnTrial, "", "running slot %s is not on trial but %s", running, st)
	}
	s.Default = running
	s.Once = bootstate.None
	return s.With(running, good), nil
}

var good = bootstate.SlotState{Status: bootstate.Committed, Tries: bootstate.Tries, Good: true}

// trialFailed ends the trial of whichever slot is on trial: of the running slot by
// its own verdict, of the other one because it did not come to a verdict.
func trialFailed(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	for _, x := range []bootstate.Slot{running, running.Other()} {
		if s.Slot(x).Status == bootstate.Trial {
			s.Once = bootstate.None
			return s.With(x, bootstate.SlotState{Status: bootstate.Failed}), nil
		}
	}
	return s, refuse(TrialFailed, ErrNotOnTrial, "", "no slot is on trial: %s is %s, %s is %s",
		bootstate.A, s.A.Status, bootstate.B, s.B.Status)
}

func rollback(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	if s.Slot(running).Status == bootstate.Trial {
		return s, refuse(Rollback, ErrOnTrial, "reboot to go back to the old slot", "running slot %s is on trial, slot %s still is the default", running, running.Other())
	}
	other := running.Other()
	if st := s.Slot(other).Status; st != bootstate.Committed {
		return s, refuse(Rollback, ErrNotCommitted, "", "slot %s was never committed: it is %s", other, st)
	}
	s.Default = other
	s.Once = bootstate.None
	return s.With(other, bootstate.SlotState{Status: bootstate.Committed, Tries: bootstate.Tries}), nil
}

func markGood(s bootstate.State, running bootstate.Slot) (bootstate.State, error) {
	if err := needCommitted(MarkGood, s, running); err != nil {
		return s, err
	}
	return s.With(running, good), nil
}

// CanFallBack says whether the boot loader would, in the end, start the other slot
// if the running one kept failing. If not, a system that is up but unhealthy should
// stay up: a reboot could only make it unreachable as well.
func CanFallBack(s bootstate.State, running bootstate.Slot) bool {
	if s.Slot(running).Status != bootstate.Committed {
		return s.Slot(running.Other()).Status == bootstate.Committed
	}
	return s.Slot(running.Other()).Bootable()
}

// FellBack says whether the boot loader passed over the default to start the running slot.
func FellBack(s bootstate.State, running bootstate.Slot) bool {
	return running != s.Default && s.Slot(running).Status == bootstate.Committed && !s.Slot(s.Default).Bootable()
}
