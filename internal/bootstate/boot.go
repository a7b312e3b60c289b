package bootstate

// Reason says why the boot loader chose a slot.
type Reason string

// The reasons, as they also stand in the line GRUB prints.
const (
	ReasonTrial      Reason = "trial"       // Once named it and it is on trial
	ReasonGood       Reason = "good"        // its last boot was healthy
	ReasonTries      Reason = "tries"       // not proved yet, one try spent
	ReasonFallback   Reason = "fallback"    // the default has no tries left or no usable kernel
	ReasonLastResort Reason = "last resort" // no slot has tries left
	ReasonUnreadable Reason = "unreadable"  // no boot state to go by
	ReasonNothing    Reason = "nothing"     // no slot can be started
)

// Boot is [Decide] without the reason.
func Boot(s State, usable func(Slot) bool) (next State, boot Slot) {
	next, boot, _ = Decide(s, usable)
	return next, boot
}

// Decide says which slot the boot loader starts next and what it saves before it
// hands over. usable says whether a slot's kernel image has the right checksum and
// can be loaded; it is asked at most once for each slot. boot is [None] when there
// is nothing to start.
//
// The rules, in order:
//
//  1. Once is always cleared. If it named a slot on trial, that slot is started.
//  2. The default, if committed and good or with tries left.
//  3. The other slot, on the same terms.
//  4. The default, if committed; then the other, if committed: a last resort that
//     spends nothing.
//
// A slot that is passed over because it is not usable loses its tries. Starting a
// good slot by rule 2 or 3 gives it a full set of tries and takes good away until
// the system proves itself again; starting one that is not good costs a try. The
// default never changes here, and a slot that is not committed is only started by
// rule 1.
func Decide(s State, usable func(Slot) bool) (next State, boot Slot, why Reason) {
	tested := map[Slot]bool{}
	start := func(x Slot) bool {
		ok, known := tested[x]
		if !known {
			ok = usable(x)
			tested[x] = ok
		}
		if !ok {
			ss := s.Slot(x)
			ss.Tries, ss.Good = 0, false
			s = s.With(x, ss)
			return false
		}
		s.Booted = x
		return true
	}

	once := s.Once
	s.Once = None
	if once.Valid() && s.Slot(once).Status == Trial && start(once) {
		return s, once, ReasonTrial
	}
	for _, x := range []Slot{s.Default, s.Default.Other()} {
		if !s.Slot(x).Bootable() || !start(x) {
			continue
		}
		ss := s.Slot(x)
		why = ReasonTries
		if ss.Good {
			ss.Good, ss.Tries, why = false, Tries, ReasonGood
		} else {
			ss.Tries--
		}
		if x != s.Default {
			why = ReasonFallback
		}
		return s.With(x, ss), x, why
	}
	for _, x := range []Slot{s.Default, s.Default.Other()} {
		if s.Slot(x).Status == Committed && start(x) {
			return s, x, ReasonLastResort
		}
	}
	return s, None, ReasonNothing
}

// BootUnreadable is what the boot loader does when neither the boot state nor its copy
// can be read: slot A if it can be started, else slot B. Nothing is saved. eos-init refuses a
// slot whose image is not complete and signed.
func BootUnreadable(usable func(Slot) bool) (boot Slot, why Reason) {
	for _, x := range []Slot{A, B} {
		if usable(x) {
			return x, ReasonUnreadable
		}
	}
	return None, ReasonNothing
}
