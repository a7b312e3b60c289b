package inspect

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/registry/head"
	"github.com/OSInside/eos/internal/slot"
)

// The files on the EFI system partition.
const (
	stateDir   = "EFI/eos/"
	recordFile = "EFI/eos/record"
	loaderFile = "EFI/BOOT/BOOTX64.EFI"
)

// disk inspects the partitions of a disk.
func (i *inspector) disk(r io.ReaderAt) error {
	t := i.report.Table
	if t.Backup {
		i.problem("partition table: the first copy is damaged, this is the one at the end of the disk")
	}
	for _, at := range []struct {
		slot     bootstate.Slot
		name     string
		optional bool // the Static profile has one slot
	}{{bootstate.A, slotAName, false}, {bootstate.B, slotBName, true}} {
		p, err := t.ByName(at.name)
		if err != nil {
			if !at.optional || !errors.Is(err, gpt.ErrNoPartition) {
				i.problem("slot %s: %v", at.slot, err)
			}
			continue
		}
		s := Slot{Slot: at.slot, Partition: p.Number, Size: p.Size}
		if err := i.slot(&s, io.NewSectionReader(r, p.Start, p.Size)); err != nil {
			return err
		}
		i.report.Slots = append(i.report.Slots, s)
	}
	if err := i.esp(r); err != nil {
		return err
	}
	i.registry(r)
	for _, s := range i.report.Slots {
		// What an interrupted update left in a slot that counts as empty is as it
		// should be; the report shows it all the same.
		if s.Status != bootstate.Empty {
			i.report.Problems = append(i.report.Problems, s.problems...)
		}
	}
	return nil
}

// registry says what the registry's partition begins with. That it is not known is no problem: an image
// may have no use for it.
func (i *inspector) registry(r io.ReaderAt) {
	p, err := i.report.Table.ByName(registryName)
	if err != nil {
		return
	}
	b := make([]byte, head.Room)
	if _, err := io.NewSectionReader(r, p.Start, p.Size).ReadAt(b, 0); err != nil {
		i.problem("registry: %v", err)
		return
	}
	i.report.Registry = head.Classify(b, i.report.Table.DiskGUID).String()
}

// esp inspects the EFI system partition.
func (i *inspector) esp(r io.ReaderAt) error {
	esp, err := i.report.Table.ByName(espName)
	if err != nil {
		i.problem("EFI system partition: %v", err)
		return nil
	}
	v, err := openVolume(io.NewSectionReader(r, esp.Start, esp.Size), esp.Size)
	if err != nil {
		i.problem("EFI system partition: %v", err)
		return nil
	}
	if _, err := v.open(loaderFile); err != nil {
		i.problem("boot loader: %s: %v", loaderFile, err)
	}
	for n := range i.report.Slots {
		s := &i.report.Slots[n]
		if err := i.ctx.Err(); err != nil {
			return err
		}
		s.Kernel = kernel(v, s.Slot)
	}
	i.boot(v)
	return nil
}

// kernel compares a slot's kernel image with its checksum file, as the boot
// loader does before it starts it.
func kernel(v *volume, s bootstate.Slot) Check {
	name := fmt.Sprintf("EFI/eos/%s.efi", s)
	f, err := v.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Check{Absent, name + " does not exist"}
	}
	if err != nil {
		return Check{Bad, fmt.Sprintf("%s: %v", name, err)}
	}
	sums := fmt.Sprintf("EFI/eos/%s.sum", s)
	line, err := readFile(v, sums, 4096)
	if err != nil {
		return Check{Bad, fmt.Sprintf("%s: %v", sums, err)}
	}
	if bytes.Equal(line, esp.NoKernel(s)) {
		return Check{Absent, sums + " says that there is none"}
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return Check{Bad, fmt.Sprintf("%s: %v", name, err)}
	}
	want := hex.EncodeToString(h.Sum(nil)) + "  /" + name + "\n"
	if !bytes.Equal(line, []byte(want)) {
		return Check{Bad, fmt.Sprintf("%s is not what %s says", name, sums)}
	}
	return Check{Verdict: Good}
}

// readState returns nil and why if the file holds no boot state.
func readState(v *volume, name string) (*bootstate.State, error) {
	raw, err := readFile(v, stateDir+name, bootstate.BlockSize)
	if err != nil {
		return nil, err
	}
	s, err := bootstate.Parse(raw)
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// boot reads boot state and record, and says what is wrong with them and with
// slots that are to be started.
func (i *inspector) boot(v *volume) {
	b := &Boot{}
	i.report.Boot = b
	state, err := readState(v, bootstate.Files[0])
	if err != nil {
		b.StateError = err.Error()
		i.problem("boot state: %s", b.StateError)
	}
	dup, err := readState(v, bootstate.Files[1])
	if err != nil {
		b.CopyError = err.Error()
		i.problem("copy of the boot state: %s", b.CopyError)
	}
	if b.State = state; b.State == nil {
		b.State = dup
	}
	if raw, err := readFile(v, recordFile, slot.RecordSize); err != nil {
		b.RecordError = err.Error()
	} else if r, err := slot.ParseRecord(raw); err != nil {
		b.RecordError = err.Error()
	} else {
		b.Record = &r
	}
	usable := func(x bootstate.Slot) bool {
		s := i.bySlot(x)
		return s != nil && s.Kernel.Verdict == Good
	}
	if b.RecordError != "" {
		i.problem("device record: %s", b.RecordError)
	}
	if b.State == nil {
		b.Next, b.Reason = bootstate.BootUnreadable(usable)
		return
	}
	_, b.Next, b.Reason = bootstate.Decide(*b.State, usable)
	if b.Next == bootstate.None {
		i.problem("boot state: the boot loader has no slot to start")
	}
	for n := range i.report.Slots {
		s := &i.report.Slots[n]
		s.Status = b.State.A.Status
		if s.Slot == bootstate.B {
			s.Status = b.State.B.Status
		}
		if s.Status != bootstate.Committed {
			continue
		}
		if s.Empty() && s.Filesystem == nil {
			i.problem("slot %s: it is committed and holds no image", s.Slot)
		}
		if s.Kernel.Verdict != Good {
			i.problem("slot %s: it is committed and its kernel image cannot be started: %s", s.Slot, s.Kernel.Why)
		}
	}
}

func (i *inspector) bySlot(x bootstate.Slot) *Slot {
	for n := range i.report.Slots {
		if i.report.Slots[n].Slot == x {
			return &i.report.Slots[n]
		}
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(v *volume, name string, limit int64) ([]byte, error) {
	f, err := v.open(name)
	if err != nil {
		return nil, err
	}
	if f.size > limit {
		return nil, fmt.Errorf("%d bytes, want at most %d", f.size, limit)
	}
	return io.ReadAll(f)
}
