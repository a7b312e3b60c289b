package slot_test

import (
	"fmt"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
)

// operation is one thing the tests let a device do. A nil plan with a nil error is
// an operation that has nothing to do.
type operation struct {
	name string
	plan func(m *machine, d slot.Device) ([]slot.Step, slot.Image, error)
}

// nextImage is an image that neither slot holds.
func nextImage(m *machine) slot.Image {
	for n := 0; ; n++ {
		img := image(n)
		used := false
		for _, c := range m.slots {
			used = used || c.data == img
		}
		if !used {
			return img
		}
	}
}

func simple(plan func(d slot.Device) ([]slot.Step, error)) func(*machine, slot.Device) ([]slot.Step, slot.Image, error) {
	return func(_ *machine, d slot.Device) ([]slot.Step, slot.Image, error) {
		steps, err := plan(d)
		return steps, slot.Image{}, err
	}
}

var operations = []operation{
	{"write", func(m *machine, d slot.Device) ([]slot.Step, slot.Image, error) {
		img := nextImage(m)
		steps, err := d.PlanWrite(img, true)
		return steps, img, err
	}},
	{"kexec", simple(func(d slot.Device) ([]slot.Step, error) { return d.PlanActivate(slot.Kexec, false) })},
	{"boot entry", simple(func(d slot.Device) ([]slot.Step, error) { return d.PlanActivate(slot.BootEntry, false) })},
	{"cancel", simple(func(d slot.Device) ([]slot.Step, error) { return d.PlanCancel("refused") })},
	{"healthy", simple(slot.Device.PlanHealthy)},
	{"unhealthy", simple(func(d slot.Device) ([]slot.Step, error) { return d.PlanUnhealthy("a unit failed") })},
	{"rollback", simple(slot.Device.PlanRollback)},
	{"reconcile", simple(func(d slot.Device) ([]slot.Step, error) { return d.PlanReconcile(), nil })},
	{"power cycle", func(*machine, slot.Device) ([]slot.Step, slot.Image, error) {
		return []slot.Step{{Kind: slot.Reboot}}, slot.Image{}, nil
	}},
}

// key tells machines apart as far as it matters for what can happen next.
func key(m *machine) string {
	class := func(c content) string {
		switch {
		case c.complete():
			return "complete"
		case c.manifest != nil:
			return "lying"
		case c.data != slot.Image{}:
			return "data"
		}
		return "none"
	}
	k := fmt.Sprintf("%+v %+v %v %s", m.state, m.copy, m.lost, m.running)
	for i := range m.slots {
		fits := m.slots[i].manifest != nil && m.kernels[i].of == *m.slots[i].manifest
		k += fmt.Sprintf(" %s %v %v %v", class(m.slots[i]), m.kernels[i].sumOK, fits, m.proven[i] != nil)
	}
	d := m.device()
	return k + fmt.Sprint(d.TrialPending(), d.Record.Trial != nil, d.Record.Writing != nil, d.Record.Last.Op == slot.OpTrialFailed)
}

// TestEveryCut starts from every state a device can come to, lets every operation
// begin there, and cuts the power before, within and after every step. The promises
// must hold in every instant, and every machine that results is a start state again.
func TestEveryCut(t *testing.T) {
	first := factory()
	first.powerOn()
	seen := map[string]bool{key(&first): true}
	queue := []machine{first}
	cuts := 0
	visit := func(m machine, path string) {
		cuts++
		if bad := m.check(); bad != "" {
			t.Fatalf("%s: %s\nstate %+v", path, bad, m.state)
		}
		if m.running == bootstate.None {
			return
		}
		if k := key(&m); !seen[k] {
			seen[k] = true
			queue = append(queue, m)
		}
	}
	refused := map[string]int{}
	done := map[string]int{}
	for len(queue) > 0 {
		start := queue[0]
		queue = queue[1:]
		for _, op := range operations {
			steps, img, err := op.plan(&start, start.device())
			if err != nil {
				refused[op.name]++
				continue
			}
			done[op.name]++
			path := fmt.Sprintf("from %+v running %s: %s", start.state, start.running, op.name)
			m := start
			for i, st := range steps {
				at := fmt.Sprintf("%s, cut before step %d (%s)", path, i, st)
				before := m
				visit(before, at)
				before.powerOn()
				visit(before, at+" and restarted")

				torn := m
				torn.do(st, img, true)
				at = fmt.Sprintf("%s, cut within step %d (%s)", path, i, st)
				visit(torn, at)
				torn.powerOn()
				visit(torn, at+" and restarted")

				m.do(st, img, false)
			}
			visit(m, path+", complete")
			m.powerOn()
			visit(m, path+", complete and restarted")
		}
	}
	t.Logf("%d states, %d instants; done %v, refused %v", len(seen), cuts, done, refused)
	for _, op := range operations {
		if done[op.name] == 0 {
			t.Errorf("operation %s was possible in no state", op.name)
		}
	}
	if len(seen) < 50 {
		t.Errorf("reached %d states, want at least 50", len(seen))
	}
}

// run carries out an operation in full.
func (m *machine) run(t *testing.T, name string) {
	t.Helper()
	for _, op := range operations {
		if op.name != name {
			continue
		}
		steps, img, err := op.plan(m, m.device())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, st := range steps {
			m.do(st, img, false)
		}
		return
	}
	t.Fatalf("no operation %q", name)
}

// TestUpdateCompletesAfterAnyCut cuts a whole update anywhere, restarts, and asks
// for the same update again: it must end committed, whatever the cut left behind.
func TestUpdateCompletesAfterAnyCut(t *testing.T) {
	want := image(1)
	for _, how := range []slot.Activation{slot.Kexec, slot.BootEntry} {
		update := func(m *machine, budget *int) (cut bool) {
			steps := func(steps []slot.Step, err error) bool {
				if err != nil {
					t.Fatalf("%s: %v (state %+v, running %s)", how, err, m.state, m.running)
				}
				for _, st := range steps {
					if *budget == 0 {
						return true
					}
					*budget--
					m.do(st, want, *budget == 0)
					if bad := m.check(); bad != "" {
						t.Fatalf("%s: after %s: %s", how, st, bad)
					}
					if *budget == 0 {
						return true
					}
				}
				return false
			}
			if steps(m.device().PlanReconcile(), nil) {
				return true
			}
			if steps(m.device().PlanHealthy()) {
				return true
			}
			if *m.device().Image(m.running) == want {
				return false // the cut came after the commit
			}
			if steps(m.device().PlanWrite(want, true)) {
				return true
			}
			if steps(m.device().PlanActivate(how, true)) {
				return true
			}
			return steps(m.device().PlanHealthy())
		}
		n := 0
		for ; ; n++ {
			m := factory()
			m.powerOn()
			budget := n
			cut := update(&m, &budget)
			if cut {
				m.powerOn()
			}
			unlimited := -1
			update(&m, &unlimited)
			d := m.device()
			if got := *d.Image(m.running); got != want || m.state.Default != m.running || !m.state.Slot(m.running).Good {
				t.Fatalf("%s, cut after %d steps and repeated: runs %v in %s, state %+v", how, n, got, m.running, m.state)
			}
			m.powerOn()
			if got := *m.device().Image(m.running); got != want {
				t.Fatalf("%s, cut after %d steps and repeated: boots %v, want %v", how, n, got, want)
			}
			if !cut {
				break
			}
		}
		if n < 15 {
			t.Errorf("%s: an update has %d steps, want at least 15", how, n)
		}
	}
}

// TestFailedTrialIsRemembered: whichever way a trial ends without commit, the old
// slot boots, the version is remembered, and the most precise reason is kept.
func TestFailedTrialIsRemembered(t *testing.T) {
	const generic = "trial of 1.1 ended without commit (power cut, hang, panic or failed health)"
	for _, how := range []string{"kexec", "boot entry"} {
		for _, c := range []struct {
			name, reason string
			end          func(m *machine)
		}{
			{"power cut", generic, func(m *machine) { m.powerOn() }},
			{"unhealthy", "a unit failed", func(m *machine) { m.run(t, "unhealthy") }},
			{"unhealthy, cut before the state", "a unit failed", func(m *machine) {
				steps, _ := m.device().PlanUnhealthy("a unit failed")
				m.do(steps[0], slot.Image{}, false)
				m.powerOn()
			}},
			{"unhealthy, cut within the record", generic, func(m *machine) {
				steps, _ := m.device().PlanUnhealthy("a unit failed")
				m.do(steps[0], slot.Image{}, true)
				m.powerOn()
			}},
		} {
			m := factory()
			m.powerOn()
			m.run(t, "healthy")
			m.run(t, "write")
			m.run(t, how)
			if m.running != bootstate.B || !m.device().OnTrial() {
				t.Fatalf("%s: runs %s, state %+v, want the trial of b", how, m.running, m.state)
			}
			c.end(&m)
			if m.running != bootstate.A {
				t.Fatalf("%s, %s: boots %s, want a", how, c.name, m.running)
			}
			m.run(t, "reconcile")
			m.run(t, "reconcile") // repeating it changes nothing
			d := m.device()
			if got := m.state.B.Status; got != bootstate.Failed {
				t.Errorf("%s, %s: slot b is %s, want failed", how, c.name, got)
			}
			f := d.Record.Refuses("1.1", "build-1")
			if f == nil || f.Reason != c.reason || len(d.Record.Failed) != 1 {
				t.Errorf("%s, %s: remembered %+v, want one with reason %q", how, c.name, d.Record.Failed, c.reason)
			}
			if l := d.Record.Last; l.Op != slot.OpTrialFailed || l.Reason != c.reason || l.Version != "1.1" {
				t.Errorf("%s, %s: last result %+v, want %q", how, c.name, l, c.reason)
			}
			m.run(t, "healthy")
			if _, err := m.device().PlanWrite(image(1), false); err == nil {
				t.Errorf("%s, %s: PlanWrite of the failed version is allowed", how, c.name)
			}
			if _, err := m.device().PlanWrite(image(1), true); err != nil {
				t.Errorf("%s, %s: PlanWrite of the failed version by name: %v", how, c.name, err)
			}
		}
	}
}
