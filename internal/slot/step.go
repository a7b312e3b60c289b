package slot

import (
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
)

// Kind is what a [Step] does.
type Kind string

// The kinds. Every step but Jump and Reboot must be on the disk before the next one
// begins, and may be repeated.
const (
	// WriteState stores Step.State with [bootstate.WriteFile].
	WriteState Kind = "write state"
	// StoreRecord stores Step.Record with [WriteRecord].
	StoreRecord Kind = "store record"
	// InvalidateSlot overwrites the manifest block of Step.Slot, if it holds one.
	InvalidateSlot Kind = "invalidate slot"
	// WriteData writes filesystem and hash tree to Step.Slot; what is there already may stay.
	WriteData Kind = "write data"
	// WriteManifest writes the manifest block to Step.Slot.
	WriteManifest Kind = "write manifest"
	// VerifySlot reads Step.Slot back from the device: manifest, signature, and all
	// data through the hash tree.
	VerifySlot Kind = "verify slot"
	// InstallKernel makes sure that the ESP holds the kernel image of Step.Slot under
	// the slot's name, with its checksum file: it compares both with the image inside
	// the slot, and only if they differ copies it, syncs, and reads it back.
	InstallKernel Kind = "install kernel"
	// VerifyKernel reads the kernel image of Step.Slot back from the ESP and compares
	// it with its checksum file and with the one inside the slot.
	VerifyKernel Kind = "verify kernel"
	// LoadKexec loads kernel and initramfs of Step.Slot for kexec.
	LoadKexec Kind = "load kexec"
	// Jump stops the services and enters the loaded kernel. It does not return.
	Jump Kind = "jump"
	// Reboot restarts through the firmware. It does not return.
	Reboot Kind = "reboot"
)

// Step is one thing to do. Which fields are set depends on Kind.
type Step struct {
	Kind   Kind
	Slot   bootstate.Slot
	State  bootstate.State
	Record Record
}

func (st Step) String() string {
	switch st.Kind {
	case WriteState:
		s := st.State
		text := fmt.Sprintf("write state: default %s, a %s, b %s", s.Default, s.A.Status, s.B.Status)
		if s.Once != bootstate.None {
			text += ", once " + string(s.Once)
		}
		return text
	case StoreRecord:
		l := st.Record.Last
		return fmt.Sprintf("store record: %s %s %s", l.Op, l.Version, l.Outcome)
	case Jump, Reboot:
		return string(st.Kind)
	}
	return fmt.Sprintf("%s %s", st.Kind, st.Slot)
}

// The steps whose order carries the promises have constructors, so that a plan reads
// as its own documentation.

func writeState(s bootstate.State) Step { return Step{Kind: WriteState, State: s} }
func storeRecord(r Record) Step         { return Step{Kind: StoreRecord, Record: r} }
func on(k Kind, x bootstate.Slot) Step  { return Step{Kind: k, Slot: x} }
