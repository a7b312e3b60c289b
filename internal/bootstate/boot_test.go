package bootstate_test

import (
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/google/go-cmp/cmp"
)

const (
	a    = bootstate.A
	b    = bootstate.B
	none = bootstate.None
)

func ss(status bootstate.Status, tries int, good bool) bootstate.SlotState {
	return bootstate.SlotState{Status: status, Tries: tries, Good: good}
}

func both(bootstate.Slot) bool { return true }

func only(x bootstate.Slot) func(bootstate.Slot) bool {
	return func(y bootstate.Slot) bool { return x == y }
}

func TestDecide(t *testing.T) {
	proven := ss(bootstate.Committed, 3, true)
	three := ss(bootstate.Committed, 3, false)
	one := ss(bootstate.Committed, 1, false)
	zero := ss(bootstate.Committed, 0, false)
	trial := ss(bootstate.Trial, 0, false)
	failed := ss(bootstate.Failed, 0, false)
	empty := ss(bootstate.Empty, 0, false)
	state := func(def, once, booted bootstate.Slot, a, b bootstate.SlotState) bootstate.State {
		return bootstate.State{Default: def, Once: once, Booted: booted, A: a, B: b}
	}
	for _, c := range []struct {
		name   string
		s      bootstate.State
		usable func(bootstate.Slot) bool
		next   bootstate.State
		boot   bootstate.Slot
		why    bootstate.Reason
	}{
		{"good default gets a full set of tries", state(a, none, none, proven, empty), both, state(a, none, a, three, empty), a, bootstate.ReasonGood},
		{"unproven default spends a try", state(a, none, a, three, proven), both, state(a, none, a, ss(bootstate.Committed, 2, false), proven), a, bootstate.ReasonTries},
		{"the last try", state(b, none, b, proven, one), both, state(b, none, b, proven, zero), b, bootstate.ReasonTries},
		{"no tries left: the other", state(b, none, b, proven, zero), both, state(b, none, a, three, zero), a, bootstate.ReasonFallback},
		{"the other spends a try too", state(b, none, a, one, zero), both, state(b, none, a, zero, zero), a, bootstate.ReasonFallback},
		{"no tries anywhere: the default", state(b, none, a, zero, zero), both, state(b, none, b, zero, zero), b, bootstate.ReasonLastResort},
		{"no tries, the other failed", state(a, none, a, zero, failed), both, state(a, none, a, zero, failed), a, bootstate.ReasonLastResort},
		{"never an uncommitted other", state(a, none, a, zero, trial), both, state(a, none, a, zero, trial), a, bootstate.ReasonLastResort},
		{"once", state(a, b, a, proven, trial), both, state(a, none, b, proven, trial), b, bootstate.ReasonTrial},
		{"once names a slot not on trial", state(a, b, a, proven, failed), both, state(a, none, a, three, failed), a, bootstate.ReasonGood},
		{"once, kernel unusable", state(a, b, a, proven, trial), only(a), state(a, none, a, three, trial), a, bootstate.ReasonGood},
		{"default's kernel unusable", state(a, none, a, proven, three), only(b), state(a, none, b, zero, ss(bootstate.Committed, 2, false)), b, bootstate.ReasonFallback},
		{"default's kernel unusable, the other without tries", state(a, none, a, proven, zero), only(b), state(a, none, b, zero, zero), b, bootstate.ReasonLastResort},
		{"default's kernel unusable, nothing else", state(a, none, a, proven, trial), only(b), state(a, none, a, zero, trial), none, bootstate.ReasonNothing},
		{"no kernel at all", state(a, none, a, proven, proven), only(none), state(a, none, a, zero, zero), none, bootstate.ReasonNothing},
		{"default not committed", state(b, none, a, three, failed), both, state(b, none, a, ss(bootstate.Committed, 2, false), failed), a, bootstate.ReasonFallback},
	} {
		next, boot, why := bootstate.Decide(c.s, c.usable)
		if boot != c.boot || why != c.why {
			t.Errorf("%s: Decide boots %q (%s), want %q (%s)", c.name, boot, why, c.boot, c.why)
		}
		if d := cmp.Diff(c.next, next); d != "" {
			t.Errorf("%s: Decide (-want +got):\n%s", c.name, d)
		}
	}
}

// TestDecideEveryState holds the rules against every state and every pair of kernels.
func TestDecideEveryState(t *testing.T) {
	every(func(s bootstate.State) {
		for k := range 4 {
			asked := map[bootstate.Slot]int{}
			kernel := map[bootstate.Slot]bool{a: k&1 != 0, b: k&2 != 0}
			next, boot, why := bootstate.Decide(s, func(x bootstate.Slot) bool { asked[x]++; return kernel[x] })
			bad := func(what string) {
				t.Fatalf("Decide(%+v), kernels %v = %+v, %q (%s): %s", s, kernel, next, boot, why, what)
			}
			if asked[a] > 1 || asked[b] > 1 {
				bad("asks for a kernel twice")
			}
			if err := next.Check(); err != nil {
				bad(err.Error())
			}
			if next.Default != s.Default || next.Once != none || next.A.Status != s.A.Status || next.B.Status != s.B.Status {
				bad("changes what it must not, or keeps once")
			}
			if boot == none {
				for _, x := range []bootstate.Slot{a, b} {
					if s.Slot(x).Status == bootstate.Committed && kernel[x] {
						bad("gives up though a committed slot has a kernel")
					}
				}
				continue
			}
			st := s.Slot(boot)
			switch {
			case !kernel[boot]:
				bad("boots an unusable kernel")
			case next.Booted != boot:
				bad("does not note what it boots")
			case st.Status != bootstate.Committed && !(st.Status == bootstate.Trial && s.Once == boot):
				bad("boots a slot that is neither committed nor announced")
			case why != bootstate.ReasonTrial && next.Slot(boot).Good:
				bad("boots a slot that stays good without proof")
			}
			if again, x := bootstate.Boot(s, func(x bootstate.Slot) bool { return kernel[x] }); again != next || x != boot {
				bad("Boot says otherwise")
			}
		}
	})
}

// TestFallbackNeedsNoHuman: a default that never comes up is started at most four
// times in a row before the other slot, and the device then stays with what works.
func TestFallbackNeedsNoHuman(t *testing.T) {
	s := bootstate.State{Default: b, A: ss(bootstate.Committed, 3, true), B: ss(bootstate.Committed, 3, true)}
	var order []bootstate.Slot
	for range 12 {
		next, x := bootstate.Boot(s, both)
		s = next
		order = append(order, x)
		if x == a { // comes up healthy
			s.A = ss(bootstate.Committed, 3, true)
		}
	}
	want := []bootstate.Slot{b, b, b, b, a, a, a, a, a, a, a, a}
	if d := cmp.Diff(want, order); d != "" {
		t.Errorf("boot order (-want +got):\n%s", d)
	}
}

func TestUnreadable(t *testing.T) {
	for _, c := range []struct {
		usable func(bootstate.Slot) bool
		want   bootstate.Slot
	}{{both, a}, {only(b), b}, {only(none), none}} {
		if got, _ := bootstate.BootUnreadable(c.usable); got != c.want {
			t.Errorf("BootUnreadable = %q, want %q", got, c.want)
		}
	}
}
