package bootstate

import "fmt"

// Slot names one of the two root partitions. The zero value means "none".
type Slot string

// The slots.
const (
	None Slot = ""
	A    Slot = "a"
	B    Slot = "b"
)

// Other returns the other slot; the other of none is none.
func (x Slot) Other() Slot {
	switch x {
	case A:
		return B
	case B:
		return A
	}
	return None
}

// Valid says whether x names a slot.
func (x Slot) Valid() bool { return x == A || x == B }

// ParseSlot reads a slot name, as on the kernel command line (eos.slot=a).
func ParseSlot(name string) (Slot, error) {
	if x := Slot(name); x.Valid() {
		return x, nil
	}
	return None, fmt.Errorf("parse slot name %q: want a or b", name)
}

// Status says how far a slot has come: empty -> written -> trial -> committed, or failed.
type Status string

// The statuses.
const (
	Empty     Status = "empty"     // nothing to boot, or being written
	Written   Status = "written"   // complete and verified, never started
	Trial     Status = "trial"     // started once on trial, or about to be
	Committed Status = "committed" // has proved itself; may be booted by default
	Failed    Status = "failed"    // its trial did not end in a commit
)

// Statuses lists every status in the order of a slot's life.
var Statuses = [...]Status{Empty, Written, Trial, Committed, Failed}

// Valid says whether st is one of [Statuses].
func (st Status) Valid() bool {
	for _, v := range Statuses {
		if st == v {
			return true
		}
	}
	return false
}

// Tries is how many counted starts a slot gets before the other one is preferred.
const Tries = 3

// SlotState is what the boot state knows about one slot.
type SlotState struct {
	Status Status `json:"status"`
	// Tries is how many counted starts are left, 0 to [Tries].
	Tries int `json:"tries"`
	// Good is set by a healthy boot and cleared by the boot loader when it starts
	// the slot, so that tries are only counted while nothing has proved the slot.
	Good bool `json:"good"`
}

// Bootable says whether the boot loader would start the slot by its own choice.
func (ss SlotState) Bootable() bool {
	return ss.Status == Committed && (ss.Good || ss.Tries > 0)
}

// State is the whole boot state.
type State struct {
	// Default is the slot to boot. Only a committed slot is ever written here.
	Default Slot `json:"default"`
	// Once is a slot to start a single time for its trial, or none.
	Once Slot `json:"once,omitempty"`
	// Booted is the slot the boot loader last handed over to; none before the first boot.
	Booted Slot      `json:"booted,omitempty"`
	A      SlotState `json:"a"`
	B      SlotState `json:"b"`
}

// Factory is the state a new image is built with: slot A committed and not yet
// started, so that its very first boot counts tries, slot B empty.
func Factory() State {
	return State{
		Default: A,
		A:       SlotState{Status: Committed, Tries: Tries},
		B:       SlotState{Status: Empty},
	}
}

// Slot returns what is known about slot x; the zero value for an invalid slot.
func (s State) Slot(x Slot) SlotState {
	switch x {
	case A:
		return s.A
	case B:
		return s.B
	}
	return SlotState{}
}

// With returns s with slot x replaced by ss.
func (s State) With(x Slot, ss SlotState) State {
	switch x {
	case A:
		s.A = ss
	case B:
		s.B = ss
	}
	return s
}

// Check says what makes s impossible to store; nil if it can be.
func (s State) Check() error {
	if !s.Default.Valid() {
		return fmt.Errorf("check boot state: default slot is %q", s.Default)
	}
	if s.Once != None && !s.Once.Valid() {
		return fmt.Errorf("check boot state: one-shot slot is %q", s.Once)
	}
	if s.Booted != None && !s.Booted.Valid() {
		return fmt.Errorf("check boot state: booted slot is %q", s.Booted)
	}
	for _, x := range []Slot{A, B} {
		ss := s.Slot(x)
		if !ss.Status.Valid() {
			return fmt.Errorf("check boot state: status of slot %s is %q", x, ss.Status)
		}
		if ss.Tries < 0 || ss.Tries > Tries {
			return fmt.Errorf("check boot state: tries of slot %s are %d, outside 0 to %d", x, ss.Tries, Tries)
		}
	}
	return nil
}
