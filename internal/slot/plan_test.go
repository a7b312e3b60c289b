package slot_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
	"github.com/google/go-cmp/cmp"
)

// updated is a device that was updated from 1.0 in slot A to 1.1 in slot B.
func updated(t *testing.T) machine {
	t.Helper()
	m := factory()
	m.powerOn()
	for _, op := range []string{"healthy", "write", "kexec", "healthy"} {
		m.run(t, op)
	}
	if m.running != b || m.state.Default != b || m.state.B != proven || m.state.A != proven {
		t.Fatalf("after an update: runs %s, state %+v", m.running, m.state)
	}
	return m
}

func kinds(plan []slot.Step) []string {
	var k []string
	for _, s := range plan {
		k = append(k, s.String())
	}
	return k
}

// TestPlans spells every plan out: their order is what the promises rest on.
func TestPlans(t *testing.T) {
	m := updated(t)
	v2 := image(2)
	plan, err := m.device().PlanWrite(v2, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"install kernel b",
		"write state: default b, a empty, b committed",
		"store record: apply 1.2 started",
		"invalidate slot a",
		"write data a",
		"write manifest a",
		"verify slot a",
		"write state: default b, a written, b committed",
		"store record: apply 1.2 ok",
	}
	if d := cmp.Diff(want, kinds(plan)); d != "" {
		t.Errorf("PlanWrite (-want +got):\n%s", d)
	}
	for _, s := range plan {
		m.do(s, v2, false)
	}
	if plan, err := m.device().PlanWrite(v2, false); err != nil || len(plan) != 0 {
		t.Errorf("PlanWrite of what is written = %v, %v, want nothing to do", kinds(plan), err)
	}
	for how, want := range map[slot.Activation][]string{
		slot.Kexec: {
			"install kernel b", "verify slot a", "load kexec a",
			"store record: trial 1.2 started",
			"write state: default b, a trial, b committed",
			"jump",
		},
		slot.BootEntry: {
			"install kernel b", "verify slot a", "install kernel a", "verify kernel a",
			"store record: trial 1.2 started",
			"write state: default b, a trial, b committed, once a",
			"reboot",
		},
	} {
		plan, err := m.device().PlanActivate(how, false)
		if d := cmp.Diff(want, kinds(plan)); d != "" || err != nil {
			t.Errorf("PlanActivate(%s): %v (-want +got):\n%s", how, err, d)
		}
		short, err := m.device().PlanActivate(how, true)
		if d := cmp.Diff(want[2:], kinds(short)); d != "" || err != nil {
			t.Errorf("PlanActivate(%s, verified): %v (-want +got):\n%s", how, err, d)
		}
	}
	if _, err := m.device().PlanActivate("hope", true); err == nil {
		t.Error("PlanActivate(hope) succeeds")
	}
	m.run(t, "kexec")
	plan, err = m.device().PlanUnhealthy("a unit failed")
	if d := cmp.Diff([]string{
		"store record: trial-failed 1.2 failed",
		"write state: default b, a failed, b committed",
		"reboot",
	}, kinds(plan)); d != "" || err != nil {
		t.Errorf("PlanUnhealthy: %v (-want +got):\n%s", err, d)
	}
	plan, err = m.device().PlanHealthy()
	if d := cmp.Diff([]string{
		"install kernel a", "verify kernel a",
		"write state: default a, a committed, b committed",
		"store record: commit 1.2 ok",
	}, kinds(plan)); d != "" || err != nil {
		t.Errorf("PlanHealthy on trial: %v (-want +got):\n%s", err, d)
	}
	m.run(t, "healthy")
	if plan, err := m.device().PlanHealthy(); err != nil || len(plan) != 0 {
		t.Errorf("PlanHealthy a second time = %v, %v, want nothing to do", kinds(plan), err)
	}
	plan, err = m.device().PlanRollback()
	if d := cmp.Diff([]string{
		"verify slot b", "install kernel b", "verify kernel b",
		"write state: default b, a committed, b committed",
		"store record: rollback 1.1 ok",
	}, kinds(plan)); d != "" || err != nil {
		t.Errorf("PlanRollback: %v (-want +got):\n%s", err, d)
	}
}

func TestRollback(t *testing.T) {
	m := updated(t)
	m.run(t, "rollback")
	m.powerOn()
	if m.running != a {
		t.Fatalf("after rollback: boots %s, want a", m.running)
	}
	m.run(t, "healthy")
	if f := m.device().Record.Refuses("1.1", "build-1"); f == nil || !strings.Contains(f.Reason, "rolled back") {
		t.Errorf("the version rolled back from is remembered as %+v, want a reason that says so", f)
	}
	// Forward again: what proves itself is not a failed version any more.
	m.run(t, "rollback")
	m.powerOn()
	m.run(t, "healthy")
	if f := m.device().Record.Refuses("1.1", "build-1"); f != nil {
		t.Errorf("after rolling forward 1.1 is remembered as %+v, want not at all", f)
	}
}

func TestRollbackRefused(t *testing.T) {
	m := updated(t)
	m.slots[0].manifest = nil
	if _, err := m.device().PlanRollback(); !errors.Is(err, slot.ErrNotVerified) {
		t.Errorf("PlanRollback to a slot without manifest = %v, want ErrNotVerified", err)
	}
	m.state.A = empty
	if _, err := m.device().PlanRollback(); !errors.Is(err, slot.ErrNotCommitted) {
		t.Errorf("PlanRollback to an empty slot = %v, want ErrNotCommitted", err)
	}
}

func TestFailedBefore(t *testing.T) {
	m := updated(t)
	d := m.device()
	d.Record.Failed = []slot.Failure{{Image: image(2), Reason: "a unit failed"}}
	_, err := d.PlanWrite(image(2), false)
	var refused *slot.RefusedError
	if !errors.As(err, &refused) || !errors.Is(err, slot.ErrFailedBefore) {
		t.Fatalf("PlanWrite of a failed version = %v, want ErrFailedBefore", err)
	}
	if !strings.Contains(err.Error(), "1.2") || !strings.Contains(err.Error(), "a unit failed") || !strings.Contains(refused.Hint, "--version 1.2") {
		t.Errorf("refused with %q, hint %q; want version, reason and what to do", err, refused.Hint)
	}
	if _, err := d.PlanWrite(image(3), false); err != nil {
		t.Errorf("PlanWrite of another version = %v", err)
	}
}

func TestStatic(t *testing.T) {
	m := factory()
	m.static = true
	m.powerOn()
	m.run(t, "healthy")
	d := m.device()
	for name, f := range map[string]func() error{
		"PlanWrite":    func() error { _, err := d.PlanWrite(image(1), true); return err },
		"PlanActivate": func() error { _, err := d.PlanActivate(slot.Kexec, false); return err },
		"PlanRollback": func() error { _, err := d.PlanRollback(); return err },
	} {
		if err := f(); !errors.Is(err, slot.ErrStatic) {
			t.Errorf("%s = %v, want ErrStatic", name, err)
		}
	}
}

// TestFallback: a default that does not boot any more is given up by the boot loader
// without a human, remembered, and replaced by the next update.
func TestFallback(t *testing.T) {
	m := updated(t)
	m.broken[1] = true
	tried := m.powerOn()
	if want := []bootstate.Slot{b, b, b, b, a}; !cmp.Equal(tried, want) {
		t.Fatalf("boot loader tried %v, want %v: one uncounted start and three counted ones", tried, want)
	}
	m.run(t, "reconcile")
	m.run(t, "healthy")
	m.run(t, "reconcile")
	d := m.device()
	if !slot.FellBack(m.state, m.running) || m.state.Default != b {
		t.Errorf("FellBack = false with state %+v, want true and the default unchanged", m.state)
	}
	if f := d.Record.Refuses("1.1", "build-1"); f == nil || !strings.Contains(f.Reason, "fell back to slot a") || len(d.Record.Failed) != 1 {
		t.Errorf("remembered %+v, want the default that was given up", d.Record.Failed)
	}
	if tried := m.powerOn(); !cmp.Equal(tried, []bootstate.Slot{a}) {
		t.Errorf("next start tries %v, want slot a only", tried)
	}
	m.run(t, "healthy")
	m.run(t, "write")
	if m.state.Default != a || m.state.B != written {
		t.Errorf("after writing from the fallback: state %+v, want default a and b written", m.state)
	}
}

func TestUnhealthyStaysUp(t *testing.T) {
	m := factory()
	m.powerOn()
	plan, err := m.device().PlanUnhealthy("a unit failed")
	if d := cmp.Diff([]string{"store record: boot 1.0 failed"}, kinds(plan)); d != "" || err != nil {
		t.Errorf("PlanUnhealthy without a fallback: %v (-want +got):\n%s", err, d)
	}
	m = updated(t)
	if plan, err = m.device().PlanUnhealthy("a unit failed"); err != nil || len(plan) != 0 {
		t.Errorf("PlanUnhealthy after the boot was proved = %v, %v, want nothing", kinds(plan), err)
	}
	m.powerOn()
	plan, err = m.device().PlanUnhealthy("a unit failed")
	if d := cmp.Diff([]string{"store record: boot 1.1 failed", "reboot"}, kinds(plan)); d != "" || err != nil {
		t.Errorf("PlanUnhealthy with a fallback: %v (-want +got):\n%s", err, d)
	}
}

// TestPendingTrialIsLeftAlone: between the announcement of a trial and the jump the
// old system still runs, and must not take the trial for one that has ended.
func TestPendingTrialIsLeftAlone(t *testing.T) {
	m := factory()
	m.powerOn()
	m.run(t, "healthy")
	m.run(t, "write")
	plan, err := m.device().PlanActivate(slot.Kexec, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan[:len(plan)-1] {
		m.do(s, slot.Image{}, false)
	}
	if d := m.device(); !d.TrialPending() || len(d.PlanReconcile()) != 0 {
		t.Errorf("before the jump: TrialPending %v, PlanReconcile %v, want it left alone", d.TrialPending(), kinds(d.PlanReconcile()))
	}
	before := m
	m.run(t, "cancel")
	if m.state.B != written || m.device().Record.Trial != nil || len(m.device().Record.Failed) != 0 {
		t.Errorf("after PlanCancel: state %+v, record %+v, want b written and nothing remembered", m.state, m.device().Record)
	}
	before.powerOn()
	if d := before.device(); d.TrialPending() || len(d.PlanReconcile()) != 2 {
		t.Errorf("after a restart: TrialPending %v, PlanReconcile %v, want the trial closed", d.TrialPending(), kinds(d.PlanReconcile()))
	}
}

func TestRecover(t *testing.T) {
	m := updated(t)
	lost := func(change func(d *slot.Device)) slot.Device {
		d := m.device()
		d.State = bootstate.State{}
		change(&d)
		return d
	}
	v0 := image(0)
	for _, c := range []struct {
		name string
		d    slot.Device
		want bootstate.State
		ok   bool
	}{
		{"both committed", lost(func(*slot.Device) {}),
			bootstate.State{Default: b, Booted: b, A: fresh, B: fresh}, true},
		{"running slot not proven", lost(func(d *slot.Device) { d.Record.ProvenB = nil }),
			bootstate.State{Default: a, Booted: b, A: fresh, B: empty}, true},
		{"other slot rewritten", lost(func(d *slot.Device) { v := image(5); d.A = &v }),
			bootstate.State{Default: b, Booted: b, A: empty, B: fresh}, true},
		{"other slot empty", lost(func(d *slot.Device) { d.A = nil }),
			bootstate.State{Default: b, Booted: b, A: empty, B: fresh}, true},
		{"factory", slot.Device{Running: a, A: &v0},
			bootstate.State{Default: a, Booted: a, A: fresh, B: empty}, true},
		{"factory record in slot b", slot.Device{Running: b, B: &v0}, bootstate.State{}, false},
		{"nothing proven", lost(func(d *slot.Device) { d.A, d.B = nil, nil }), bootstate.State{}, false},
	} {
		got, err := c.d.Recover()
		if d := cmp.Diff(c.want, got); d != "" || (err == nil) != c.ok {
			t.Errorf("%s: Recover = %v (-want +got):\n%s", c.name, err, d)
		}
	}
}

func TestParseActivation(t *testing.T) {
	for s, ok := range map[string]bool{"kexec": true, "reboot": true, "": false, "jump": false} {
		if got, err := slot.ParseActivation(s); (err == nil) != ok || ok && string(got) != s {
			t.Errorf("ParseActivation(%q) = %q, %v", s, got, err)
		}
	}
}

// A device applies an update: plan, carry out, and let the next boot commit.
func ExampleDevice_PlanWrite() {
	v1 := slot.Image{Version: "1.0", BuildID: "build-0"}
	d := slot.Device{
		State:   bootstate.Factory(),
		Running: bootstate.A,
		A:       &v1,
	}
	plan, err := d.PlanWrite(slot.Image{Version: "1.1", BuildID: "build-1"}, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range plan {
		fmt.Println(step)
	}
	// Output:
	// install kernel a
	// write state: default a, a committed, b empty
	// store record: apply 1.1 started
	// invalidate slot b
	// write data b
	// write manifest b
	// verify slot b
	// write state: default a, a committed, b written
	// store record: apply 1.1 ok
}

// TestWriteHealsKernel: a write takes the fallback away, so a running slot whose
// kernel image was damaged behind its back must get it back first.
func TestWriteHealsKernel(t *testing.T) {
	m := updated(t)
	m.kernels[1].sumOK, m.kernelDamaged[1] = false, true
	m.run(t, "write")
	if m.powerOn(); m.running != b {
		t.Errorf("after a write: boots %q, want b", m.running)
	}
}
