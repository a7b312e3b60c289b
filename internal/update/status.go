package update

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// Status is what is known about the device. Its JSON form is documented in
// os-update(8); fields that are not known are absent, and Problems says why.
type Status struct {
	Running  bootstate.Slot `json:"running,omitempty"`
	Version  string         `json:"version,omitempty"`
	BuildID  string         `json:"build_id,omitempty"`
	Name     string         `json:"name,omitempty"`
	Class    string         `json:"class,omitempty"`
	Arch     string         `json:"arch,omitempty"`
	OnTrial  *bool          `json:"on_trial,omitempty"`
	Default  bootstate.Slot `json:"default,omitempty"`
	Once     bootstate.Slot `json:"once,omitempty"`
	FellBack bool           `json:"fell_back,omitempty"`
	// Slots holds a and, on a device that has it, b.
	Slots    []SlotStatus    `json:"slots,omitempty"`
	Firmware *FirmwareStatus `json:"firmware,omitempty"`
	Updating *slot.Image     `json:"updating,omitempty"` // an apply that has begun and not ended
	Last     *slot.Result    `json:"last,omitempty"`
	Failed   []slot.Failure  `json:"failed,omitempty"`
	Locked   bool            `json:"locked,omitempty"` // another os-update runs
	Problems []string        `json:"problems,omitempty"`
}

// SlotStatus is what is known about one slot.
type SlotStatus struct {
	Slot    bootstate.Slot   `json:"slot"`
	Device  string           `json:"device,omitempty"`
	Status  bootstate.Status `json:"status,omitempty"`
	Version string           `json:"version,omitempty"`
	BuildID string           `json:"build_id,omitempty"`
	Built   int64            `json:"built,omitempty"`
	Tries   *int             `json:"tries,omitempty"`
	Good    *bool            `json:"good,omitempty"`
	Problem string           `json:"problem,omitempty"` // why the slot's image is not known
	// Kernel is "ok", or why the boot loader would not start the slot.
	Kernel string `json:"kernel,omitempty"`
}

// Status reports what can be found out. It changes nothing, needs no lock and
// never fails: what is not known is said in the report.
func (u *Updater) Status() *Status {
	st := &Status{}
	dev, err := u.Machine.Device()
	if err != nil {
		st.problem(err)
		st.fromRelease(osRelease)
		return st
	}
	st.Running, st.Version, st.BuildID = dev.Slot, dev.Version, dev.BuildID
	st.Locked = u.isLocked()
	s := &session{Updater: u, dev: dev, manifests: map[bootstate.Slot]*slotimage.Manifest{}, problems: map[bootstate.Slot]error{}}
	s.d = slot.Device{Running: dev.Slot, BootID: u.Machine.BootID(), Static: dev.Slots[bootstate.B] == ""}
	s.readSlots()
	if m := s.manifests[dev.Slot]; m != nil {
		st.Version, st.BuildID, st.Name, st.Class, st.Arch = m.Version, m.BuildID, m.Name, m.Class, m.Arch
	}
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		if x == bootstate.B && s.d.Static {
			continue
		}
		st.Slots = append(st.Slots, s.slotStatus(x))
	}
	st.readESP(s)
	return st
}

func (s *session) slotStatus(x bootstate.Slot) SlotStatus {
	out := SlotStatus{Slot: x, Device: s.dev.Slots[x]}
	if m := s.manifests[x]; m != nil {
		out.Version, out.BuildID, out.Built = m.Version, m.BuildID, m.Built
	} else if err := s.problems[x]; err != nil {
		out.Problem = err.Error()
	}
	return out
}

// readESP adds what is on the EFI system partition.
func (st *Status) readESP(s *session) {
	v, err := s.Machine.ESP(false)
	if err != nil {
		st.problem(err)
		st.Firmware = firmwareUnknown(err)
		return
	}
	defer v.Close()
	st.Firmware = firmwareStatus(s.Machine.Firmware(), v)
	r, err := v.Record()
	if err != nil {
		st.problem(err)
	} else {
		st.Updating, st.Failed = r.Writing, r.Failed
		if r.Last != (slot.Result{}) {
			st.Last = &r.Last
		}
	}
	for i := range st.Slots {
		st.Slots[i].Kernel = "ok"
		if err := v.CheckKernel(st.Slots[i].Slot); err != nil {
			st.Slots[i].Kernel = err.Error()
		}
	}
	state, err := v.State()
	if err != nil {
		st.problem(err)
		return
	}
	s.d.State, s.d.Record = state, r
	trial := s.d.OnTrial()
	st.OnTrial, st.Default, st.Once = &trial, state.Default, state.Once
	st.FellBack = slot.FellBack(state, s.d.Running)
	for i := range st.Slots {
		ss := state.Slot(st.Slots[i].Slot)
		st.Slots[i].Status, st.Slots[i].Tries, st.Slots[i].Good = ss.Status, &ss.Tries, &ss.Good
	}
}

func (st *Status) problem(err error) {
	text := err.Error()
	if errors.Is(err, os.ErrPermission) {
		text += " (more is known to root)"
	}
	st.Problems = append(st.Problems, text)
}

// osRelease names the running image where eos-init has said nothing.
const osRelease = "/usr/lib/os-release"

func (st *Status) fromRelease(path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "IMAGE_ID":
			st.Name = value
		case "IMAGE_VERSION":
			st.Version = value
		}
	}
}

// Text writes the report for people.
func (st *Status) Text(w io.Writer) error {
	var b strings.Builder
	line := func(label, format string, a ...any) { fmt.Fprintf(&b, "%-9s %s\n", label, fmt.Sprintf(format, a...)) }
	running := "slot " + string(st.Running)
	if st.Running == "" {
		running = "slot unknown"
	}
	if st.Version != "" {
		running += ", version " + st.Version
	}
	switch {
	case st.OnTrial != nil && *st.OnTrial:
		running += ", on trial (not committed yet)"
	case st.FellBack:
		running += ", because the default slot did not boot"
	}
	line("running", "%s", running)
	if st.Default != "" {
		text := "slot " + string(st.Default)
		if st.Once != "" {
			text += ", but slot " + string(st.Once) + " once at the next start"
		}
		line("default", "%s", text)
	} else {
		line("default", "unknown")
	}
	for _, x := range st.Slots {
		line("slot "+string(x.Slot), "%s", x.text())
	}
	if st.Firmware != nil {
		line("firmware", "%s", st.Firmware.text())
	}
	if st.Updating != nil {
		line("update", "writing %s was begun and has not ended", st.Updating.Version)
	}
	if st.Last != nil {
		line("last", "%s", resultText(*st.Last))
	}
	for _, f := range st.Failed {
		line("failed", "%s, %s: %s", f.Version, when(f.Time), f.Reason)
	}
	if st.Locked {
		line("busy", "another os-update is running")
	}
	for _, p := range st.Problems {
		line("unknown", "%s", p)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (x SlotStatus) text() string {
	var parts []string
	if x.Status != "" {
		parts = append(parts, string(x.Status))
	} else {
		parts = append(parts, "status unknown")
	}
	if x.Version != "" {
		parts = append(parts, "version "+x.Version)
	}
	if x.Status == bootstate.Committed && x.Good != nil && x.Tries != nil {
		if *x.Good {
			parts = append(parts, "good")
		} else {
			parts = append(parts, fmt.Sprintf("not proved in this boot, %d tries left", *x.Tries))
		}
	}
	if x.Problem != "" && x.Status != bootstate.Empty {
		parts = append(parts, "image unknown: "+x.Problem)
	}
	if x.Status == bootstate.Committed && x.Kernel != "" && x.Kernel != "ok" {
		parts = append(parts, x.Kernel)
	}
	return strings.Join(parts, ", ")
}

func resultText(r slot.Result) string {
	text := r.Op
	if r.Version != "" {
		text += " " + r.Version
	}
	text += ": " + r.Outcome + ", " + when(r.Time)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func when(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04 UTC") }
