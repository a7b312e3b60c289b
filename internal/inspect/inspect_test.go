package inspect_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/inspect"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const (
	mib     = 1 << 20
	espAt   = 1 * mib
	espSize = 40 * mib
	slotA   = espAt + espSize
	slotB   = slotA + mib
	diskLen = slotB + 3*mib
)

func accepted(n int) []key.Public {
	k := slotimagetest.Public(n)
	return []key.Public{{ID: key.ID(k), Name: fmt.Sprintf("test-%d", n), Key: k}}
}

// makeDisk makes a disk with the real tools: slot A committed and proved, slot
// B written by an update.
func makeDisk(t *testing.T, tree *toolstree.Tree) []byte {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	disk, esp := file("disk", nil), file("esp", nil)
	if err := errors.Join(os.Truncate(disk, diskLen), os.Truncate(esp, espSize)); err != nil {
		t.Fatal(err)
	}
	sfdisk := tree.Command("sfdisk", "--quiet", disk)
	sfdisk.Stdin = strings.NewReader(`label: gpt
label-id: 6F1D3AF5-28E2-4B54-8C5F-0123456789AB
size=40M, name="p.UEFI", type=U, uuid=11111111-2222-3333-4444-555555555555
size=1M, name="p.lxreadonly", uuid=21111111-2222-3333-4444-555555555555
size=1M, name="p.lxrootclone1", uuid=31111111-2222-3333-4444-555555555555
size=512K, name="p.spare", uuid=41111111-2222-3333-4444-555555555555
`)
	if err := command.Run(t.Context(), sfdisk); err != nil {
		t.Fatal(err)
	}
	state := bootstate.Factory()
	state.A.Good, state.Booted, state.B.Status = true, bootstate.A, bootstate.Written
	half, at, err := slot.MarshalRecord(slot.Record{
		Seq:    2,
		Last:   slot.Result{Op: slot.OpApply, Outcome: slot.OutcomeOK, Version: "1.1-1", Time: 1_700_100_000},
		Failed: []slot.Failure{{Image: slot.Image{Version: "1.0-9", BuildID: "f00"}, Reason: "health check ssh.service", Time: 1_700_000_500}},
	})
	if err != nil {
		t.Fatal(err)
	}
	record := make([]byte, slot.RecordSize)
	copy(record[at:], half)
	kernel := bytes.Repeat([]byte("kernel of slot a\n"), 100_000)
	run := func(argv ...string) {
		t.Helper()
		toolstreetest.Output(t, tree, argv...)
	}
	run("mkfs.vfat", "-F", "32", "-n", "EFI", esp)
	run("mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::EFI/eos", "::EFI/eos/a.efi.extra.d")
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"BOOT/BOOTX64.EFI", []byte("GRUB")},
		{"eos/a.efi", kernel},
		{"eos/a.sum", fmt.Appendf(nil, "%x  /EFI/eos/a.efi\n", sha256.Sum256(kernel))},
		{"eos/bootstate", state.Marshal()},
		{"eos/bootstate2", state.Marshal()},
		{"eos/record", record},
	} {
		run("mcopy", "-i", esp, file("content", f.content), "::EFI/"+f.name)
	}
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	fat, err := os.ReadFile(esp)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[espAt:], fat)
	image, _ := slotimagetest.Image(t, slotimagetest.Template(), 140, 1)
	copy(b[slotA:], image)
	next := slotimagetest.Template()
	next.Version, next.BuildID = "1.1-1", "77aa01"
	image, _ = slotimagetest.Image(t, next, 150, 2)
	copy(b[slotB:], image)
	return b
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDisk(t *testing.T) {
	tree := toolstreetest.Open(t)
	disk := makeDisk(t, tree)
	path := write(t, disk)
	report, err := inspect.File(t.Context(), path, accepted(1), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("text", func(t *testing.T) {
		var text bytes.Buffer
		if err := report.Text(&text); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantText, strings.ReplaceAll(text.String(), path, "IMAGE")); diff != "" {
			t.Errorf("Text differs (-want +got):\n%s", diff)
		}
	})
	t.Run("json", func(t *testing.T) {
		text, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		var got inspect.Report
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(got)
		if err != nil || !bytes.Equal(text, again) {
			t.Errorf("JSON does not survive a round trip (%v):\n%s\n%s", err, text, again)
		}
		for _, want := range []string{`"disk_guid":"6f1d3af5-28e2-4b54-8c5f-0123456789ab"`, `"next":"a"`, `"version":"1.1-1"`, `"hash_tree":{"verdict":"good"}`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("JSON lacks %s: %s", want, text)
			}
		}
	})
	t.Run("faults", func(t *testing.T) { testFaults(t, disk) })
	t.Run("qcow2", func(t *testing.T) {
		qcow := path + ".qcow2"
		toolstreetest.Output(t, tree, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, qcow)
		got, err := inspect.File(t.Context(), qcow, accepted(1), true)
		if err != nil {
			t.Fatal(err)
		}
		if got.Path != qcow || !got.OK() || len(got.Slots) != 2 || got.Size != report.Size {
			t.Errorf("report of the qcow2 image = %+v", got)
		}
		left, err := filepath.Glob(filepath.Join(os.TempDir(), "eos-inspect-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	})
}

const wantText = `IMAGE: disk, 45 MiB
disk GUID 6f1d3af5-28e2-4b54-8c5f-0123456789ab, sectors of 512 bytes

partitions
  1  p.UEFI          40 MiB   at 1.0 MiB  11111111-2222-3333-4444-555555555555
  2  p.lxreadonly    1.0 MiB  at 41 MiB   21111111-2222-3333-4444-555555555555
  3  p.lxrootclone1  1.0 MiB  at 42 MiB   31111111-2222-3333-4444-555555555555
  4  p.spare         512 KiB  at 43 MiB   41111111-2222-3333-4444-555555555555

boot
  next       slot a (the default, and proved)
  default    slot a
  started    slot a was the last one
  slot a     committed, proved
  slot b     written
  last done  2023-11-16 02:00:00 UTC, apply ok, version 1.1-1
  failed     2023-11-14 22:21:40 UTC, version 1.0-9: health check ssh.service

slot a (partition 2, 1.0 MiB)
  holds      eos-test 1.0-1 for test-device, amd64
  build      6b1d2f3c, 2023-11-14 22:13:20 UTC
  size       576 KiB, of which filesystem 560 KiB (zstd, level 15)
  root hash  e2c5a5c61e73c591fd04d2d6c3bd34088f6528c2a2c2e505ccd26e2f6b9a1f1b
  signature  right
             by 6dbb8ea800aac5cb, test-1
  hash tree  every block is right
  kernel     checksum is right

slot b (partition 3, 1.0 MiB)
  holds      eos-test 1.1-1 for test-device, amd64
  build      77aa01, 2023-11-14 22:13:20 UTC
  size       616 KiB, of which filesystem 600 KiB (zstd, level 15)
  root hash  0b798785c986c3c428020e22c209f8cf02c0d5c841e5723c58f800195ac4a026
  signature  right
             by 6dbb8ea800aac5cb, test-1
  hash tree  every block is right
  kernel     none: EFI/eos/b.efi does not exist

registry
  nothing but zeros

no problems found
`

// testFaults breaks a copy of the disk in one place and expects to hear of it,
// and of nothing else.
func testFaults(t *testing.T, disk []byte) {
	var stateAt []int // of the boot state and its copy, which were written in this order
	for from := 0; ; {
		i := bytes.Index(disk[from:], []byte("default=a"))
		if i < 0 {
			break
		}
		stateAt = append(stateAt, from+i)
		from += i + 1
	}
	if len(stateAt) != 2 {
		t.Fatalf("boot states on the disk at %d, want two", stateAt)
	}
	type patch struct {
		at    int
		bytes []byte
	}
	flip := func(at int) patch { return patch{at, []byte{disk[at] ^ 0x11}} }
	empty := func(at int) patch { return patch{at, make([]byte, slotimage.BlockSize)} }
	path := write(t, disk)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	apply := func(at int, b []byte) {
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	kernel := bytes.Index(disk, []byte("kernel of slot a\n"))
	manifestA := bytes.Index(disk[slotA:], []byte("EOSSLOT1")) + slotA
	manifestB := bytes.Index(disk[slotB:], []byte("EOSSLOT1")) + slotB
	for _, tt := range []struct {
		name string
		edit patch
		want []string // in the problems, one each
	}{
		{"nothing", patch{}, nil},
		{"first partition table", flip(512 + 60), []string{"partition table: the first copy is damaged"}},
		{"data of slot a", flip(slotA + 5*4096), []string{"slot a: verity: data block 5 does not match its hash"}},
		{"tree of slot b", flip(manifestB + 3*4096), []string{"slot b: verity: hash block 1 of level 1 does not match its hash"}},
		{"manifest of slot a", flip(manifestA + 20), []string{"slot a: at 573440: malformed slot manifest"}},
		{"no manifest in slot b", empty(manifestB), []string{"slot b: at 614400: no slot manifest"}},
		{"signature of slot b", flip(manifestB + 3076 + 40), []string{"slot b: slot manifest has a wrong signature"}},
		{"slot a is empty", empty(slotA), []string{"slot a: it is committed and holds no image"}},
		{"slot b is empty", empty(slotB), nil},
		{"kernel", flip(kernel), []string{"boot state: the boot loader has no slot to start",
			"slot a: it is committed and its kernel image cannot be started: EFI/eos/a.efi is not what EFI/eos/a.sum says"}},
		{"boot state", flip(stateAt[0]), []string{"boot state: "}},
		{"copy of the boot state", flip(stateAt[1]), []string{"copy of the boot state: "}},
		{"EFI system partition", flip(espAt + 510), []string{"EFI system partition: damaged FAT filesystem"}},
	} {
		apply(tt.edit.at, tt.edit.bytes)
		report, err := inspect.File(t.Context(), path, accepted(1), true)
		apply(tt.edit.at, disk[tt.edit.at:][:len(tt.edit.bytes)])
		if err != nil {
			t.Errorf("%s: File = %v", tt.name, err)
			continue
		}
		matches := len(report.Problems) == len(tt.want)
		for i := range min(len(report.Problems), len(tt.want)) {
			matches = matches && strings.HasPrefix(report.Problems[i], tt.want[i])
		}
		if !matches {
			t.Errorf("%s: problems = %q, want %q", tt.name, report.Problems, tt.want)
		}
		var text bytes.Buffer
		if err := report.Text(&text); err != nil || !strings.Contains(text.String(), "problem") {
			t.Errorf("%s: Text = %q, %v", tt.name, &text, err)
		}
	}
}

func TestSlotImage(t *testing.T) {
	image, m := slotimagetest.Image(t, slotimagetest.Template(), 140, 1)
	damaged := slices.Clone(image)
	damaged[9*4096] ^= 1
	for _, tt := range []struct {
		name            string
		image           []byte
		keys            []key.Public
		full            bool
		signature, tree inspect.Verdict
		problem         string
	}{
		{"full", image, accepted(1), true, inspect.Good, inspect.Good, ""},
		{"quick", damaged, accepted(1), false, inspect.Good, inspect.Unchecked, ""},
		{"no keys", image, nil, true, inspect.Unchecked, inspect.Good, ""},
		{"another key", image, accepted(2), true, inspect.Bad, inspect.Good, "slot image: slot manifest is signed by no accepted key"},
		{"damaged", damaged, accepted(1), true, inspect.Good, inspect.Bad, "slot image: verity: data block 9 does not match its hash"},
		{"cut", image[:len(image)-1], accepted(1), true, inspect.Good, inspect.Bad, "slot image: slot image is longer than the space it is in: image of"},
		{"filesystem only", image[:m.DataSize], accepted(1), true, inspect.Absent, inspect.Absent, "slot image: slot image is longer than the space it is in: filesystem of"},
		{"emptied", make([]byte, 1<<16), accepted(1), true, inspect.Absent, inspect.Absent, ""},
	} {
		report, err := inspect.File(t.Context(), write(t, tt.image), tt.keys, tt.full)
		if err != nil {
			t.Errorf("%s: File = %v", tt.name, err)
			continue
		}
		s := report.Slots[0]
		if report.Kind != inspect.SlotImage || s.Signature.Verdict != tt.signature || s.HashTree.Verdict != tt.tree {
			t.Errorf("%s: kind %q, signature %+v, hash tree %+v, want %q, %s, %s",
				tt.name, report.Kind, s.Signature, s.HashTree, inspect.SlotImage, tt.signature, tt.tree)
		}
		if got := strings.Join(report.Problems, "\n"); !strings.HasPrefix(got, tt.problem) || (tt.problem == "") != (got == "") {
			t.Errorf("%s: problems = %q, want %q", tt.name, got, tt.problem)
		}
		var text bytes.Buffer
		if err := report.Text(&text); err != nil || (tt.problem != "" && !strings.Contains(text.String(), tt.problem)) {
			t.Errorf("%s: Text = %q, %v", tt.name, &text, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inspect.File(ctx, write(t, image), nil, true); !errors.Is(err, context.Canceled) {
		t.Errorf("File with a context that is over = %v, want %v", err, context.Canceled)
	}
}

func TestFileRefuses(t *testing.T) {
	if _, err := inspect.File(t.Context(), write(t, []byte("hello, world")), nil, true); !errors.Is(err, inspect.ErrUnknown) {
		t.Errorf("File of a text = %v, want ErrUnknown", err)
	}
	if _, err := inspect.File(t.Context(), write(t, nil), nil, true); !errors.Is(err, inspect.ErrUnknown) {
		t.Errorf("File of nothing = %v, want ErrUnknown", err)
	}
	if _, err := inspect.File(t.Context(), filepath.Join(t.TempDir(), "none"), nil, true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("File of no file = %v, want ErrNotExist", err)
	}
	if _, err := inspect.File(t.Context(), t.TempDir(), nil, true); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("File of a directory = %v, want that it is one", err)
	}
	for magic, hint := range map[string]string{
		"\x28\xb5\x2f\xfd....": "unpack it first: zstd -d ",
		"\xfd7zXZ\x00..":       "unpack it first: xz -dk ",
		"\x1f\x8b......":       "unpack it first: gzip -dk ",
	} {
		_, err := inspect.File(t.Context(), write(t, []byte(magic)), nil, true)
		var refused *cli.Error
		if !errors.As(err, &refused) || !strings.HasPrefix(refused.Hint, hint) {
			t.Errorf("File of %q = %v, want the hint %q", magic, err, hint)
		}
	}
}
