package slot_test

import (
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
	"pgregory.net/rapid"
)

// TestRandomLife lets a device live through random operations, cuts and damage. A
// cut stops an operation before, within or after any step. Damage hits the kernel
// image of any slot, or the content of the slot that does not run.
func TestRandomLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := factory()
		m.powerOn()
		actions := map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if bad := m.check(); bad != "" {
					t.Fatalf("%s: state %+v, running %q", bad, m.state, m.running)
				}
			},
			"damage kernel": func(t *rapid.T) {
				x := rapid.SampledFrom([]bootstate.Slot{bootstate.A, bootstate.B}).Draw(t, "slot")
				m.kernels[at(x)].sumOK = false
				m.kernelDamaged[at(x)] = true
			},
			"damage other slot": func(*rapid.T) {
				if m.running != bootstate.None {
					m.broken[at(m.running.Other())] = true
				}
			},
		}
		for _, op := range operations {
			actions[op.name] = func(t *rapid.T) {
				if m.running == bootstate.None {
					m.powerOn()
					return
				}
				steps, img, err := op.plan(&m, m.device())
				if err != nil {
					return
				}
				cut := rapid.IntRange(0, 2*len(steps)).Draw(t, "cut")
				for i, st := range steps {
					if cut == 2*i {
						m.powerOn()
						return
					}
					if st.Kind == slot.VerifySlot && m.broken[at(st.Slot)] || st.Kind == slot.InstallKernel && m.slots[at(st.Slot)].manifest == nil {
						return // the step finds out and the operation stops
					}
					m.do(st, img, cut == 2*i+1)
					if bad := m.check(); bad != "" {
						t.Fatalf("%s after %s: state %+v, running %q", bad, st, m.state, m.running)
					}
					if cut == 2*i+1 {
						m.powerOn()
						return
					}
				}
			}
		}
		t.Repeat(actions)
	})
}
