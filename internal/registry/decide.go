package registry

import (
	"fmt"

	"github.com/OSInside/eos/internal/registry/head"
)

// Policies of an image description.
const (
	PolicyTPM2    = "tpm2"    // LUKS2, sealed to the machine's TPM 2.0
	PolicyKeyfile = "keyfile" // LUKS2, its key in a file on the ESP
	PolicyNone    = "none"    // XFS without encryption
)

// Action is what a boot does with the registry's partition.
type Action int

// Actions.
const (
	Leave  Action = iota // degraded: nothing is opened or written
	Make                 // make the registry
	Unlock               // open LUKS2 and mount
	Mount                // mount as it is
)

// Facts are what a boot knows before it does anything.
type Facts struct {
	Policy    string
	Partition bool // there is one
	Kind      head.Kind
	Size      int64 // of the partition, after it was grown; bytes
	TPM       bool  // there is a TPM 2.0
	Copy      bool  // the ESP has a copy of a LUKS2 header
}

// MinSize is the smallest partition that a registry is made on, in bytes: XFS wants 300 MiB, the
// header takes 4.
const MinSize = 304 << 20

// Trouble says what is wrong with a registry, and what to do about it.
type Trouble struct{ Problem, ToDo string }

// Error makes a Trouble an error.
func (t *Trouble) Error() string { return t.Problem }

// Hint says what to do.
func (t *Trouble) Hint() string { return t.ToDo }

// Decide says what to do, and why not where nothing can be done.
func Decide(f Facts) (Action, *Trouble) {
	leave := func(hint, format string, a ...any) (Action, *Trouble) {
		return Leave, &Trouble{fmt.Sprintf(format, a...), hint}
	}
	restore := "look at the partition before anything is written to it; nothing of this device writes there"
	if f.Copy {
		restore = "if its header was damaged: flake-registry --restore-header puts back the copy on the boot partition"
	}
	switch {
	case !f.Partition:
		return leave("the partition table has changed; put p.spare back as the last partition", "this disk has no partition p.spare")
	case f.Kind == head.Blank && f.Policy == PolicyTPM2 && !f.TPM:
		return leave("switch the TPM on in the firmware; the registry is then made at the next boot",
			"this machine has no TPM 2.0 to seal the registry to, so none was made")
	case f.Kind == head.Blank && f.Size < MinSize:
		return leave("use a larger disk; the registry is then made at the next boot",
			"the registry's partition has %d MiB, too few for a registry of %d", f.Size>>20, int64(MinSize)>>20)
	case f.Kind == head.Blank:
		return Make, nil
	case f.Kind == head.LUKS:
		return Unlock, nil
	case f.Kind == head.Plain && f.Policy != PolicyNone:
		// Who can write to the disk could have put it there, with programs of theirs in it.
		return leave("if that is intended, build the image with registry.policy none",
			"the registry is not encrypted, but this image's policy is %s", f.Policy)
	case f.Kind == head.Plain:
		return Mount, nil
	case f.Kind == head.Empty:
		return leave(restore, "the registry's partition starts with zeros: neither the builder's mark nor a registry")
	}
	return leave(restore, "the registry's partition holds neither the builder's mark nor a registry")
}
