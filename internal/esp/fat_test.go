package esp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/fat"
	"github.com/OSInside/eos/internal/fat/fattest"
)

var lives = flag.Uint64("lives", 12, "volumes that go through power cuts")

var errPower = errors.New("power is off")

// board is a device with a FAT volume. mtools play the part of the kernel's driver.
type board struct {
	t     *testing.T
	m     *fattest.Image
	r     *rand.Rand
	files map[string][]byte // but those of the loader
	f     firmware
}

// entries opens the volume as [Volume.unmounted] does.
func (b *board) entries(fault func() error) fatEntries {
	b.t.Helper()
	d := b.m.Device(b.t)
	d.Fault = fault
	v, err := fat.Open(d)
	if err != nil {
		b.t.Fatal(err)
	}
	return fatEntries{v}
}

// install does what InstallFirmware does, up to a cut: 0 in claim, 1 while the kernel
// writes, 2 in replace, 3 none.
func (b *board) install(image []byte, cut int) {
	b.t.Helper()
	must := func(err error, mayCut bool) {
		b.t.Helper()
		if err != nil && (!mayCut || !errors.Is(err, errPower)) {
			b.t.Fatal(err)
		}
	}
	// Each change is one sector: it is on the disk, or it is not.
	fault := func() error {
		if b.r.IntN(2) == 0 {
			return errPower
		}
		return nil
	}
	if cut == 0 {
		must(b.entries(fault).claim(b.f), true)
		return
	}
	must(b.entries(nil).claim(b.f), false)
	before := b.m.Bytes(b.t)
	b.m.Put(b.t, b.f.fresh, image)
	if cut == 1 {
		b.m.Set(b.t, fattest.Mix(before, b.m.Bytes(b.t), b.r))
		return
	}
	sum := sha256.Sum256(image)
	must(same(context.Background(), b.entries(nil), b.f.fresh, sum[:]), false)
	if cut == 2 {
		must(b.entries(fault).replace(b.f), true)
		return
	}
	e := b.entries(nil)
	must(e.replace(b.f), false)
	must(same(context.Background(), e, b.f.live, sum[:]), false)
}

// The plug is pulled again and again while a loader is installed, each time with any part of
// what was being written on the disk, in any order. The loader is whole at every moment, no
// other file is touched, also by what is written next, and in the end everything is in place.
func TestFirmwareOnFAT(t *testing.T) {
	for seed := range *lives {
		b := &board{t: t, r: rand.New(rand.NewPCG(seed, 1)), files: map[string][]byte{
			"EFI/eos/a.efi": pattern(150_000, 3), "EFI/eos/bootstate": pattern(1024, 5),
		}}
		b.f, _ = firmwareNames(loader)
		now := pattern(60_000, 0)
		b.files[loader] = now
		b.m = fattest.New(t, b.files)
		delete(b.files, loader)
		if seed%2 == 0 {
			b.install(pattern(50_000, 1), 3)
			now = pattern(50_000, 1)
		}
		next := pattern(40_000+b.r.IntN(60_000), 9)
		for round := range 3 {
			cut := b.r.IntN(3)
			b.install(next, cut)
			switch got := b.m.Get(t, loader); {
			case bytes.Equal(got, next):
				now, next = next, pattern(40_000+b.r.IntN(60_000), byte(10+round))
			case !bytes.Equal(got, now):
				t.Fatalf("seed %d, round %d, cut %d: the loader is neither the old one nor the new", seed, round, cut)
			}
			b.m.Want(t, b.files)
			// Another slot's kernel image takes clusters that a half written file may lead to.
			if round > 0 {
				b.files["EFI/eos/b.efi"] = pattern(30_000+b.r.IntN(90_000), byte(20+round))
				b.m.Put(t, "EFI/eos/b.efi", b.files["EFI/eos/b.efi"])
			}
		}
		b.install(next, 3)
		b.files[loader], b.files[previous], b.files[fresh] = next, now, nil
		b.m.Want(t, b.files)
		b.m.Check(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A volume whose other files are damaged is not written to: the clusters that a new file
// gets might be theirs too.
func TestFirmwareOnDamagedFAT(t *testing.T) {
	m := fattest.New(t, map[string][]byte{loader: pattern(9000, 1), "EFI/eos/b.efi": pattern(9000, 2)})
	b := m.Bytes(t)
	fattest.SetTable(b, fattest.First(t, b, "B       EFI")+3, 0)
	m.Set(t, b)
	x := &board{t: t, m: m}
	f, _ := firmwareNames(loader)
	if err := x.entries(nil).claim(f); err == nil || !strings.Contains(err.Error(), "damaged: EFI/EOS/B.EFI") {
		t.Errorf("claim = %v, want an error about the damage", err)
	}
	if !bytes.Equal(m.Bytes(t), b) {
		t.Error("the volume was written to")
	}
}

// A kernel image's file that a cut has left with free clusters, while it was made longer, is
// emptied before it is written again: the kernel would refuse to write to the volume.
func TestMend(t *testing.T) {
	m := fattest.New(t, map[string][]byte{loader: pattern(9000, 1), "EFI/eos/b.efi": pattern(9000, 2)})
	b := m.Bytes(t)
	fattest.SetTable(b, fattest.First(t, b, "B       EFI")+3, 0)
	m.Set(t, b)
	x := &board{t: t, m: m}
	if err := x.entries(nil).mend("EFI/eos/b.efi"); err != nil {
		t.Fatal(err)
	}
	if d := x.entries(nil).v.Damage(); len(d) > 0 {
		t.Errorf("Damage() afterwards = %v", d)
	}
	m.Want(t, map[string][]byte{loader: pattern(9000, 1), "EFI/eos/b.efi": {}})
	before := m.Bytes(t)
	if err := x.entries(nil).mend("EFI/eos/b.efi"); err != nil || !bytes.Equal(before, m.Bytes(t)) {
		t.Errorf("mend of a file that is whole = %v, want no change", err)
	}
}

func TestFirmwareTwoBeside(t *testing.T) {
	m := fattest.New(t, map[string][]byte{loader: pattern(9000, 1), fresh: pattern(9, 2), previous: pattern(9, 3)})
	x := &board{t: t, m: m}
	f, _ := firmwareNames(loader)
	if err := x.entries(nil).claim(f); err == nil || !strings.Contains(err.Error(), "both") {
		t.Errorf("claim = %v, want an error about two files", err)
	}
}
