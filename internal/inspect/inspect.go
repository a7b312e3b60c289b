// Package inspect says what is on a disk, in a disk image or in a slot image:
// partitions, boot state, device record, and for each slot what it holds, whether
// its signature, hash tree and kernel image are right, and why not.
//
// [File] makes the report, [Report.Text] writes it for people; in JSON it is
// for programs. What it finds wrong is in [Report.Problems]; an error is
// returned only for a file that is none of these or cannot be read.
//
// Nothing is ever written to what is inspected, mounted, or locked: a report
// about a disk in use is a report about moments that may differ. Everything
// read is taken for damaged or hostile until it was checked.
package inspect

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/squashfs"
	"github.com/OSInside/eos/internal/toolstree"
)

// The names of the partitions.
const (
	espName   = "p.UEFI"
	slotAName = "p.lxreadonly"
	slotBName = "p.lxrootclone1"

	registryName = "p.spare"
)

// Kind says what was inspected.
type Kind string

// The kinds.
const (
	Disk      Kind = "disk"       // a block device or image with a partition table
	SlotImage Kind = "slot image" // a file or partition that begins with a filesystem
)

// A Report says what was found.
type Report struct {
	Path     string     `json:"path"`
	Kind     Kind       `json:"kind"`
	Size     int64      `json:"size"`
	Full     bool       `json:"full"` // every block was compared with the hash trees
	Table    *gpt.Table `json:"table,omitempty"`
	Boot     *Boot      `json:"boot,omitempty"`
	Slots    []Slot     `json:"slots"`
	Registry string     `json:"registry,omitempty"` // what its partition begins with: blank, LUKS2, ...
	Problems []string   `json:"problems,omitempty"`
}

// Boot is what the EFI system partition says. What could not be read is nil
// and has a reason.
type Boot struct {
	State       *bootstate.State `json:"state,omitempty"`
	StateError  string           `json:"state_error,omitempty"`
	CopyError   string           `json:"copy_error,omitempty"` // of the state's copy
	Next        bootstate.Slot   `json:"next"`                 // what the boot loader starts next
	Reason      bootstate.Reason `json:"reason"`
	Record      *slot.Record     `json:"record,omitempty"`
	RecordError string           `json:"record_error,omitempty"`
}

// Verdict is the outcome of one check.
type Verdict string

// The verdicts.
const (
	Good      Verdict = "good"
	Bad       Verdict = "bad"
	Unchecked Verdict = "unchecked" // no keys were given, or not a full inspection
	Absent    Verdict = "absent"    // there is nothing to check
)

// A Check is a verdict and why.
type Check struct {
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why,omitempty"`
}

// A Slot is what a slot, or a slot image in a file, holds.
type Slot struct {
	Slot       bootstate.Slot      `json:"slot,omitempty"` // none for a slot image
	Partition  int                 `json:"partition,omitempty"`
	Size       int64               `json:"size"` // space for the image
	Status     bootstate.Status    `json:"status,omitempty"`
	Filesystem *squashfs.Super     `json:"filesystem,omitempty"`
	Manifest   *slotimage.Manifest `json:"manifest,omitempty"` // to be believed only if Signature is good
	Signers    []Signer            `json:"signers,omitempty"`
	Signature  Check               `json:"signature"`
	HashTree   Check               `json:"hash_tree"`
	Kernel     Check               `json:"kernel"` // on the EFI system partition

	problems []string // become the report's unless the slot is known to be empty
}

// A Signer is a key that a manifest names. That it signed is for Signature to say.
type Signer struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"` // of an accepted key
}

// Empty says that a slot holds no image.
func (s *Slot) Empty() bool { return s.Signature.Verdict == Absent }

// name is what the slot is called in messages.
func (s *Slot) name() string {
	if s.Slot == bootstate.None {
		return "slot image"
	}
	return "slot " + string(s.Slot)
}

// OK says that nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// ErrUnknown says that something is neither a disk nor a slot image.
var ErrUnknown = errors.New("neither a disk with a partition table nor a slot image")

// File inspects a disk image (raw or qcow2), a slot image or a block device.
// Signatures are compared with the accepted keys; with none they are left
// unchecked. Full reads every block and compares it with the hash tree.
func File(ctx context.Context, path string, accepted []key.Public, full bool) (*Report, error) {
	raw, remove, err := unpack(ctx, path)
	if err != nil {
		return nil, err
	}
	defer remove()
	f, err := os.Open(raw)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	defer f.Close()
	// Seek tells the size of block devices too.
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	i := &inspector{ctx: ctx, accepted: accepted, report: &Report{Path: path, Size: size, Full: full}}
	if err := i.run(f); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	return i.report, nil
}

// packed are formats that are recognised so as to be refused with advice.
var packed = []struct{ magic, name, unpack string }{
	{"\x28\xb5\x2f\xfd", "zstd", "zstd -d"},
	{"\xfd7zXZ\x00", "xz", "xz -dk"},
	{"\x1f\x8b", "gzip", "gzip -dk"},
}

// unpack returns the path of the raw form of what is at path, and the call
// that removes it where it was made for the purpose.
func unpack(ctx context.Context, path string) (raw string, remove func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil, fmt.Errorf("inspect: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return "", nil, fmt.Errorf("inspect %s: it is a directory", path)
	}
	start := make([]byte, 8)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	start = start[:n]
	for _, p := range packed {
		if bytes.HasPrefix(start, []byte(p.magic)) {
			return "", nil, cli.Refuse(cli.Failure, fmt.Errorf("inspect %s: it is compressed with %s", path, p.name),
				fmt.Sprintf("unpack it first: %s %s", p.unpack, path))
		}
	}
	if !bytes.HasPrefix(start, []byte("QFI\xfb")) {
		return path, func() {}, nil
	}
	return convert(ctx, path)
}

// convert makes a raw, sparse copy of a qcow2 image.
func convert(ctx context.Context, path string) (raw string, remove func(), err error) {
	tools, err := toolstree.Open(ctx, nil)
	if err != nil {
		return "", nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	dir, err := os.MkdirTemp("", "eos-inspect-")
	if err != nil {
		return "", nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	remove = func() { os.RemoveAll(dir) }
	raw = filepath.Join(dir, "raw")
	from, err := filepath.Abs(path)
	if err == nil {
		err = command.Run(ctx, tools.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", from, raw))
	}
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	return raw, remove, nil
}

// An inspector fills in a report.
type inspector struct {
	ctx      context.Context
	accepted []key.Public
	report   *Report
}

func (i *inspector) problem(format string, args ...any) {
	i.report.Problems = append(i.report.Problems, fmt.Sprintf(format, args...))
}

func (i *inspector) run(r io.ReaderAt) error {
	size := i.report.Size
	table, err := gpt.Read(r, size)
	switch {
	case err == nil:
		i.report.Kind, i.report.Table = Disk, table
		return i.disk(r)
	case !errors.Is(err, gpt.ErrNoTable):
		return err
	}
	if _, err := slotimage.Locate(r); errors.Is(err, slotimage.ErrEmpty) && !startsEmpty(r) {
		return ErrUnknown
	}
	i.report.Kind = SlotImage
	s := Slot{Size: size, Kernel: Check{Verdict: Absent, Why: "no EFI system partition"}}
	if err := i.slot(&s, r); err != nil {
		return err
	}
	i.report.Slots = []Slot{s}
	i.report.Problems = s.problems
	return nil
}

// startsEmpty reports whether the first block is zeros, as in a slot that was
// made empty.
func startsEmpty(r io.ReaderAt) bool {
	var b [slotimage.BlockSize]byte
	n, _ := r.ReadAt(b[:], 0)
	return n == len(b) && b == [slotimage.BlockSize]byte{}
}

// slot inspects an image. Only a context that is over is an error, everything
// else goes into the report.
func (i *inspector) slot(s *Slot, r io.ReaderAt) error {
	wrong := func(c Check) Check {
		s.problems = append(s.problems, fmt.Sprintf("%s: %s", s.name(), c.Why))
		return c
	}
	s.HashTree = Check{Verdict: Absent}
	s.Filesystem, _ = squashfs.Read(r)
	block, err := slotimage.ReadBlock(r, s.Size)
	if err != nil {
		s.Signature = Check{Absent, short(err)}
		// Empty is a state, anything else that is not an image is damage.
		if !errors.Is(err, slotimage.ErrEmpty) {
			wrong(s.Signature)
		}
		return nil
	}
	s.Manifest = block.Unverified()
	for _, id := range block.KeyIDs() {
		s.Signers = append(s.Signers, Signer{ID: id, Name: i.keyName(id)})
	}
	if s.Signature = i.signature(block); s.Signature.Verdict == Bad {
		wrong(s.Signature)
	}
	if err := block.Fits(r, s.Size); err != nil {
		s.HashTree = wrong(Check{Bad, err.Error()})
		return nil
	}
	if !i.report.Full {
		s.HashTree = Check{Verdict: Unchecked}
		return i.ctx.Err()
	}
	switch err := slotimage.Verify(i.ctx, r, s.Manifest, nil); {
	case i.ctx.Err() != nil:
		return i.ctx.Err()
	case err != nil:
		s.HashTree = wrong(Check{Bad, short(err)})
	default:
		s.HashTree = Check{Verdict: Good}
	}
	return nil
}

func (i *inspector) signature(block *slotimage.Block) Check {
	keys := make([]ed25519.PublicKey, 0, len(i.accepted))
	for _, k := range i.accepted {
		keys = append(keys, k.Key)
	}
	_, err := block.Verify(keys)
	switch {
	case err == nil:
		return Check{Verdict: Good}
	case len(keys) == 0 && errors.Is(err, slotimage.ErrUnknownKey):
		return Check{Unchecked, "no keys to compare with"}
	default:
		return Check{Bad, err.Error()}
	}
}

func (i *inspector) keyName(id string) string {
	for _, k := range i.accepted {
		if k.ID == id {
			return k.Name
		}
	}
	return ""
}

// short drops the outer context of an error, which the report gives itself.
func short(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		return inner.Error()
	}
	return err.Error()
}
