package slot

import (
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
)

// Reconcile closes a trial of the other slot that nobody ended: the slot becomes
// failed. It returns the failure to remember, without image and time, or nil if
// there is nothing to close. Use [Device.PlanReconcile], which also knows whether
// that trial has begun at all and whether a better reason was recorded.
func Reconcile(s bootstate.State, running bootstate.Slot) (bootstate.State, *Failure) {
	other := running.Other()
	if !running.Valid() || s.Slot(other).Status != bootstate.Trial || s.Once == other {
		return s, nil
	}
	if s.Slot(running).Status == bootstate.Trial {
		// Two trials cannot be; leave the state to whoever looks at it.
		return s, nil
	}
	s.Once = bootstate.None
	s = s.With(other, bootstate.SlotState{Status: bootstate.Failed})
	return s, &Failure{Reason: "trial ended without commit (power cut, hang, panic or failed health)"}
}

// PlanReconcile brings state and record in line with what the last start came to. It
// is run early on every boot and before every other operation. It closes a trial
// that nobody ended, and remembers a default that the boot loader gave up. The plan
// is empty when all is in line.
//
// The record is stored first: a cut in between leaves the trial open, and the next
// boot comes to the same result.
func (d Device) PlanReconcile() []Step {
	var plan []Step
	r := d.Record
	state := d.State
	if !d.TrialPending() {
		next, failure := Reconcile(d.State, d.Running)
		if failure != nil {
			r = d.closeTrial(r, *failure)
			state = next
		}
	}
	if def := state.Default; FellBack(state, d.Running) {
		if img := d.Image(def); img != nil && r.Refuses(img.Version, img.BuildID) == nil {
			reason := fmt.Sprintf("was the default in slot %s but did not boot; fell back to slot %s", def, d.Running)
			r = r.withFailure(Failure{Image: *img, Reason: reason, Time: d.Now})
			r.Last = d.result(OpBoot, OutcomeFailed, reason, img.Version)
		}
	}
	if !same(r, d.Record) {
		plan = append(plan, storeRecord(r))
	}
	if state != d.State {
		plan = append(plan, writeState(state))
	}
	return plan
}

func (d Device) closeTrial(r Record, f Failure) Record {
	img := d.Image(d.Running.Other())
	if img == nil && r.Trial != nil {
		img = &r.Trial.Image
	}
	r.Trial = nil
	if img == nil {
		if r.Last.Op != OpTrialFailed {
			r.Last = d.result(OpTrialFailed, OutcomeFailed, f.Reason, "")
		}
		return r
	}
	if r.Last.Op == OpTrialFailed && r.Last.Version == img.Version && r.Refuses(img.Version, img.BuildID) != nil {
		// The trial itself recorded why, and was cut before it could mark the slot.
		return r
	}
	f.Image, f.Time = *img, d.Now
	f.Reason = "trial of " + img.Version + " ended without commit (power cut, hang, panic or failed health)"
	r = r.withFailure(f)
	r.Last = d.result(OpTrialFailed, OutcomeFailed, f.Reason, img.Version)
	return r
}

// Recover makes a new boot state for a device whose own cannot be read. A slot
// counts as committed only if its manifest verifies and the record says that this
// very image was committed in it, or if it is slot A of a device without a past.
// The running slot becomes the default if it is committed, else the other one.
// d.State is not looked at.
func (d Device) Recover() (bootstate.State, error) {
	s := bootstate.State{Booted: d.Running}
	fresh := d.Record.ProvenA == nil && d.Record.ProvenB == nil && d.Record.Trial == nil && d.Record.Writing == nil
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		img, proven := d.Image(x), d.Record.proven(x)
		ss := bootstate.SlotState{Status: bootstate.Empty}
		if img != nil && (proven != nil && *proven == *img || fresh && x == bootstate.A) {
			ss = bootstate.SlotState{Status: bootstate.Committed, Tries: bootstate.Tries}
		}
		s = s.With(x, ss)
	}
	for _, x := range []bootstate.Slot{d.Running, d.Running.Other()} {
		if s.Slot(x).Status == bootstate.Committed {
			s.Default = x
			return s, nil
		}
	}
	return bootstate.State{}, fmt.Errorf("recover boot state: no slot is known to have been committed")
}
