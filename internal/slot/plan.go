package slot

import (
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
)

// Device is everything a plan is made from.
type Device struct {
	State   bootstate.State
	Record  Record
	Running bootstate.Slot // the slot the running root comes from
	// A and B are the images in the slots, nil where no manifest verifies.
	A, B   *Image
	BootID string // of the running kernel, /proc/sys/kernel/random/boot_id
	Static bool   // there is no slot B
	Now    int64  // Unix seconds
	Server string // the repository in use, empty if none is
}

// Image returns the image in slot x, nil where no manifest verifies.
func (d Device) Image(x bootstate.Slot) *Image {
	switch x {
	case bootstate.A:
		return d.A
	case bootstate.B:
		return d.B
	}
	return nil
}

func (d Device) version(x bootstate.Slot) string {
	if img := d.Image(x); img != nil {
		return img.Version
	}
	return ""
}

// OnTrial says whether the running slot is on trial.
func (d Device) OnTrial() bool { return d.State.Slot(d.Running).Status == bootstate.Trial }

// TrialPending says whether the other slot is about to start its trial: the jump or
// the reboot into it has not happened yet.
func (d Device) TrialPending() bool {
	other := d.Running.Other()
	if d.State.Slot(other).Status != bootstate.Trial {
		return false
	}
	t := d.Record.Trial
	return d.State.Once == other || (t != nil && t.BootID != "" && t.BootID == d.BootID)
}

func (d Device) result(op, outcome, reason, version string) Result {
	return Result{Op: op, Outcome: outcome, Reason: reason, Version: version, Time: d.Now}
}

// PlanWrite fills the other slot with img. named says that the operator asked for
// this very version, which lifts the refusal of one that failed before. If the other
// slot holds img already, written and verified, the plan is empty.
//
// The boot state lets go of the old content before the first byte of it is touched,
// and takes up the new one after the last byte was read back. Before all that the
// kernel image of the running slot is made sure of: from then on nothing else boots.
func (d Device) PlanWrite(img Image, named bool) ([]Step, error) {
	if d.Static {
		return nil, refuse(BeginWrite, ErrStatic, "write a new image to the disk to update a device with the Static profile", "this device has no second slot")
	}
	if f := d.Record.Refuses(img.Version, img.BuildID); f != nil && !named {
		return nil, refuse(BeginWrite, ErrFailedBefore, "name it to try again: os-update --apply --version "+img.Version,
			"version %s failed on this device before: %s", img.Version, f.Reason)
	}
	other := d.Running.Other()
	begun, err := Apply(d.State, d.Running, BeginWrite)
	if err != nil {
		return nil, err
	}
	if have := d.Image(other); d.State.Slot(other).Status == bootstate.Written && have != nil && *have == img {
		return nil, nil
	}
	written, err := Apply(begun, d.Running, EndWrite)
	if err != nil {
		return nil, err
	}
	starting := d.Record.withProven(other, nil)
	starting.Writing = &img
	starting.Trial = nil
	starting.Last = d.result(OpApply, OutcomeStarted, "", img.Version)
	finished := starting
	finished.Writing = nil
	finished.Last = d.result(OpApply, OutcomeOK, "", img.Version)
	return []Step{
		on(InstallKernel, d.Running),
		writeState(begun),
		storeRecord(starting),
		on(InvalidateSlot, other),
		on(WriteData, other),
		on(WriteManifest, other),
		on(VerifySlot, other),
		writeState(written),
		storeRecord(finished),
	}, nil
}

// Activation is how a trial is started.
type Activation string

// The activations.
const (
	Kexec     Activation = "kexec"  // jump from the running kernel
	BootEntry Activation = "reboot" // through the firmware, by a one-shot boot entry
)

// ParseActivation reads the value of `activate:` and --activate.
func ParseActivation(s string) (Activation, error) {
	if a := Activation(s); a == Kexec || a == BootEntry {
		return a, nil
	}
	return "", fmt.Errorf("parse activation %q: want %s or %s", s, Kexec, BootEntry)
}

// PlanActivate starts the trial of the image in the other slot. verified says that
// PlanWrite was carried out in this very run, so that neither the slot nor the
// running slot's kernel image need be read again.
//
// Whatever can go wrong without leaving the running system comes before the state is
// changed. With a boot entry the kernel image is installed under the other slot's
// name; nothing depends on that file while the slot is not committed.
func (d Device) PlanActivate(how Activation, verified bool) ([]Step, error) {
	ev := BeginTrial
	if how == BootEntry {
		ev = BeginTrialOnce
	}
	if d.Static {
		return nil, refuse(ev, ErrStatic, "", "this device has no second slot")
	}
	next, err := Apply(d.State, d.Running, ev)
	if err != nil {
		return nil, err
	}
	other := d.Running.Other()
	img := d.Image(other)
	if img == nil {
		return nil, refuse(ev, ErrNotVerified, "run os-update --apply to write it again", "the manifest of slot %s does not verify", other)
	}
	started := d.Record
	started.Trial = &Attempt{Image: *img, BootID: d.BootID, Activation: string(how), Time: d.Now, Server: d.Server}
	started.Last = d.result(OpTrial, OutcomeStarted, "", img.Version)
	var plan []Step
	if !verified {
		plan = append(plan, on(InstallKernel, d.Running), on(VerifySlot, other))
	}
	switch how {
	case Kexec:
		return append(plan, on(LoadKexec, other), storeRecord(started), writeState(next), Step{Kind: Jump}), nil
	case BootEntry:
		return append(plan, on(InstallKernel, other), on(VerifyKernel, other), storeRecord(started), writeState(next), Step{Kind: Reboot}), nil
	}
	return nil, fmt.Errorf("internal error: unknown activation %q", how)
}

// PlanCancel takes back a trial that was announced but whose jump did not happen,
// because the service manager or the kernel refused it.
func (d Device) PlanCancel(reason string) ([]Step, error) {
	next, err := Apply(d.State, d.Running, CancelTrial)
	if err != nil {
		return nil, err
	}
	r := d.Record
	r.Trial = nil
	r.Last = d.result(OpTrial, OutcomeFailed, reason, d.version(d.Running.Other()))
	return []Step{writeState(next), storeRecord(r)}, nil
}

// PlanHealthy is for a boot that is complete: a trial is committed, a committed slot
// marked good. The plan is empty if there is nothing to change.
func (d Device) PlanHealthy() ([]Step, error) {
	if d.OnTrial() {
		return d.planCommit()
	}
	next, err := Apply(d.State, d.Running, MarkGood)
	if err != nil {
		return nil, err
	}
	var plan []Step
	if next != d.State {
		plan = append(plan, writeState(next))
	}
	r := d.Record
	if img := d.Image(d.Running); img != nil {
		if p := r.proven(d.Running); p == nil || *p != *img {
			r = r.withProven(d.Running, img)
		}
		// A version that runs by choice and is healthy is not a failed one any more;
		// one that only runs because the default failed says nothing about the default.
		if d.State.Default == d.Running && r.Refuses(img.Version, img.BuildID) != nil {
			r = r.withoutFailure(*img)
		}
	}
	if !same(r, d.Record) {
		plan = append(plan, storeRecord(r))
	}
	return plan, nil
}

// planCommit makes the running trial the default. Its kernel image is complete on
// the ESP before the one write of the boot state that makes the boot loader use it;
// the old slot keeps its status and its kernel and stays the fallback.
func (d Device) planCommit() ([]Step, error) {
	next, err := Apply(d.State, d.Running, Commit)
	if err != nil {
		return nil, err
	}
	img := d.Image(d.Running)
	if img == nil {
		return nil, refuse(Commit, ErrNotVerified, "reboot to go back to the old slot", "the manifest of running slot %s does not verify", d.Running)
	}
	r := d.Record.withoutFailure(*img).withProven(d.Running, img)
	r.Trial = nil
	r.Writing = nil
	r.Last = d.result(OpCommit, OutcomeOK, "", img.Version)
	return []Step{
		on(InstallKernel, d.Running),
		on(VerifyKernel, d.Running),
		writeState(next),
		storeRecord(r),
	}, nil
}

// PlanUnhealthy is for a boot that will not complete. A trial ends here: the reason
// is remembered, then the slot marked failed, then the device reboots into the old
// slot. A committed slot is rebooted only if the boot loader can come to start the
// other one ([CanFallBack]); else the device stays up for someone to look at. So does
// one whose boot has proved itself: the plan is empty when the time limit of a slow
// boot ran out just after its commit was on the disk.
func (d Device) PlanUnhealthy(reason string) ([]Step, error) {
	r := d.Record
	version := d.version(d.Running)
	if d.OnTrial() {
		next, err := Apply(d.State, d.Running, TrialFailed)
		if err != nil {
			return nil, err
		}
		if img := d.Image(d.Running); img != nil {
			r = r.withFailure(Failure{Image: *img, Reason: reason, Time: d.Now})
		}
		r.Trial = nil
		r.Last = d.result(OpTrialFailed, OutcomeFailed, reason, version)
		return []Step{storeRecord(r), writeState(next), {Kind: Reboot}}, nil
	}
	if d.State.Slot(d.Running).Good {
		return nil, nil
	}
	r.Last = d.result(OpBoot, OutcomeFailed, reason, version)
	plan := []Step{storeRecord(r)}
	if CanFallBack(d.State, d.Running) {
		plan = append(plan, Step{Kind: Reboot})
	}
	return plan, nil
}

// PlanRollback makes the other slot the default. That slot must have been committed,
// it is read back as a whole, and its kernel image is checked and, if need be,
// installed again from the slot, all before the one write of the boot state. What
// runs now stays committed, as the fallback, and is remembered so that it is not
// fetched and applied again by itself.
func (d Device) PlanRollback() ([]Step, error) {
	if d.Static {
		return nil, refuse(Rollback, ErrStatic, "", "this device has no second slot")
	}
	next, err := Apply(d.State, d.Running, Rollback)
	if err != nil {
		return nil, err
	}
	other := d.Running.Other()
	img := d.Image(other)
	if img == nil {
		return nil, refuse(Rollback, ErrNotVerified, "", "the manifest of slot %s does not verify", other)
	}
	r := d.Record.withoutFailure(*img)
	if from := d.Image(d.Running); from != nil && *from != *img {
		r = r.withFailure(Failure{Image: *from, Reason: "rolled back to " + img.Version + " by the operator", Time: d.Now})
	}
	r.Last = d.result(OpRollback, OutcomeOK, "", img.Version)
	return []Step{
		on(VerifySlot, other),
		on(InstallKernel, other),
		on(VerifyKernel, other),
		writeState(next),
		storeRecord(r),
	}, nil
}
