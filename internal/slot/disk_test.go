package slot_test

import (
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
)

// kernel is a kernel image on the ESP: of which image, and whether its checksum fits.
type kernel struct {
	of    slot.Image
	sumOK bool
}

// content is what a slot partition holds.
type content struct {
	manifest *slot.Image // nil: none that verifies
	data     slot.Image  // zero: incomplete
}

func (c content) complete() bool { return c.manifest != nil && *c.manifest == c.data }

// disk models what survives a cut.
type disk struct {
	state   bootstate.State // what can be read: of the file, or of the copy once that is lost
	copy    bootstate.State // as the system wrote it last; the boot loader leaves it alone
	lost    bool            // the file cannot be read
	record  [slot.RecordSize]byte
	slots   [2]content
	kernels [2]kernel
}

// machine is a disk with a system running from it, and what the tests know about
// it that the device itself need not know.
type machine struct {
	disk
	running bootstate.Slot // none: nothing could be started
	bootID  int
	// proven is the image that was committed in each slot and not let go since.
	proven [2]*slot.Image
	// What the tests damaged behind the device's back: slots that do not come up any
	// more, kernel images that lost their checksum.
	broken, kernelDamaged [2]bool
	static                bool
}

func at(x bootstate.Slot) int {
	if x == bootstate.B {
		return 1
	}
	return 0
}

func image(n int) slot.Image {
	return slot.Image{Version: fmt.Sprintf("1.%d", n), BuildID: fmt.Sprintf("build-%d", n)}
}

// factory is a device fresh from its factory, not yet started.
func factory() machine {
	v := image(0)
	m := machine{}
	m.state, m.copy = bootstate.Factory(), bootstate.Factory()
	m.slots[0] = content{manifest: &v, data: v}
	m.kernels[0] = kernel{of: v, sumOK: true}
	m.proven[0] = &v
	return m
}

// device is what the running system sees.
func (m *machine) device() slot.Device {
	r, _ := slot.ParseRecord(m.record[:])
	return slot.Device{
		State: m.state, Record: r, Running: m.running,
		A: m.slots[0].manifest, B: m.slots[1].manifest,
		BootID: fmt.Sprint(m.bootID), Static: m.static, Now: int64(m.bootID),
	}
}

// usable is GRUB's view of a kernel image.
func (m *machine) usable(x bootstate.Slot) bool { return m.kernels[at(x)].sumOK }

// comesUp says whether eos-init would go on in slot x: the kernel belongs to a
// complete image.
func (m *machine) comesUp(x bootstate.Slot) bool {
	c := m.slots[at(x)]
	return c.complete() && m.kernels[at(x)].of == *c.manifest && !m.broken[at(x)]
}

// powerOn lets the boot loader choose, as often as eos-init refuses, and leaves the
// machine in the slot that comes up. It returns the slots that were tried.
func (m *machine) powerOn() []bootstate.Slot {
	var tried []bootstate.Slot
	m.running = bootstate.None
	for range 20 {
		next, x := bootstate.Boot(m.state, m.usable)
		m.state = next
		if m.lost {
			m.copy = next
		}
		m.bootID++
		if x == bootstate.None {
			return tried
		}
		tried = append(tried, x)
		if m.comesUp(x) {
			m.running = x
			return tried
		}
	}
	return tried
}

// do carries out one step. torn stops half-way through it.
func (m *machine) do(st slot.Step, img slot.Image, torn bool) {
	x := at(st.Slot)
	switch st.Kind {
	case slot.WriteState:
		if torn {
			// All or nothing is the cut before or after. This is a medium that
			// loses the sector it was writing.
			m.state, m.lost = m.copy, true
			return
		}
		m.trackProof(st.State)
		m.state, m.copy, m.lost = st.State, st.State, false
	case slot.StoreRecord:
		r := st.Record
		old, _ := slot.ParseRecord(m.record[:])
		r.Seq = old.Seq + 1
		half, offset, err := slot.MarshalRecord(r)
		if err != nil {
			panic(err)
		}
		if torn {
			half = append(half[:20:20], make([]byte, 1000)...)
		}
		copy(m.record[offset:], half)
	case slot.InvalidateSlot:
		m.slots[x].manifest = nil
	case slot.WriteData:
		m.slots[x].data = img
		m.broken[x] = false
		if torn {
			m.slots[x].data = slot.Image{}
		}
	case slot.WriteManifest:
		m.slots[x].manifest = &img
		if torn {
			m.slots[x].manifest = nil
		}
	case slot.InstallKernel:
		want := kernel{of: *m.slots[x].manifest, sumOK: true}
		if m.kernels[x] == want {
			return
		}
		m.kernels[x] = want
		if torn {
			m.kernels[x].sumOK = false
			return
		}
		m.kernelDamaged[x] = false
	case slot.VerifySlot, slot.VerifyKernel, slot.LoadKexec:
		// change nothing
	case slot.Jump:
		m.bootID++
		if other := m.running.Other(); !torn && m.comesUpKexec(other) {
			m.running = other
			return
		}
		m.powerOn()
	case slot.Reboot:
		m.powerOn()
	default:
		panic("unknown step " + st.Kind)
	}
}

// comesUpKexec: the kernel was loaded from the slot itself, not from the ESP.
func (m *machine) comesUpKexec(x bootstate.Slot) bool {
	return m.slots[at(x)].complete() && !m.broken[at(x)]
}

// trackProof follows what the device really knows about its slots: an image is
// proven only by a commit from the slot that runs.
func (m *machine) trackProof(next bootstate.State) {
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		was, is := m.state.Slot(x).Status, next.Slot(x).Status
		switch {
		case is != bootstate.Committed:
			m.proven[at(x)] = nil
		case was == bootstate.Trial && x == m.running:
			m.proven[at(x)] = m.slots[at(x)].manifest
		}
	}
}

// check returns what breaks the promises in this instant, "" if nothing does.
func (m *machine) check() string {
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		c := m.slots[at(x)]
		committed := m.state.Slot(x).Status == bootstate.Committed
		if committed && (m.proven[at(x)] == nil || c.manifest == nil || *m.proven[at(x)] != *c.manifest || c.data != *c.manifest) {
			return fmt.Sprintf("slot %s is committed but holds %+v, proven is %v", x, c, m.proven[at(x)])
		}
		if x == m.state.Default && !committed {
			return fmt.Sprintf("default slot %s is %s", x, m.state.Slot(x).Status)
		}
	}
	sound := false
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		if m.state.Slot(x).Status != bootstate.Committed || m.broken[at(x)] || m.kernelDamaged[at(x)] {
			continue
		}
		if !m.usable(x) || !m.comesUp(x) {
			return fmt.Sprintf("committed slot %s does not boot: kernel %+v, slot %+v", x, m.kernels[at(x)], m.slots[at(x)])
		}
		sound = true
	}
	if !sound {
		if m.broken == [2]bool{} && m.kernelDamaged == [2]bool{} {
			return "no slot is committed"
		}
		return "" // the test damaged all there was
	}
	// Cut the power now. A trial that is started once may do anything but commit.
	probe := *m
	next, x := bootstate.Boot(probe.state, probe.usable)
	if x != bootstate.None && probe.state.Once == x && probe.state.Slot(x).Status == bootstate.Trial {
		probe.state = next
	}
	tried := probe.powerOn()
	if probe.running == bootstate.None || probe.state.Slot(probe.running).Status != bootstate.Committed {
		return fmt.Sprintf("boots %q after trying %v", probe.running, tried)
	}
	return ""
}
