package vm_test

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/update"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// firmwareCuts is how often the plug is pulled: twice, or as often as -cuts says.
func firmwareCuts() int {
	n := 2
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "cuts" {
			n = *cuts
		}
	})
	return n
}

// onESP runs commands in the guest in the mounted boot partition. What they write is on the
// disk when they have ended.
func onESP(t testing.TB, v *vmtest.VM, mode, commands string) string {
	t.Helper()
	return v.MustSSH(t, `set -e
		esp=$(sed -n 's/.*"esp": *"\([^"]*\)".*/\1/p' /run/eos/boot.json)
		mkdir -p /run/esp
		mount -o `+mode+` "$esp" /run/esp
		cd /run/esp
		`+commands+`
		cd /
		umount /run/esp
		sync "$esp"`)
}

// spoil makes the boot loader another one: bytes behind a program's end do not matter to who
// starts it. It returns its checksum.
func spoil(t testing.TB, v *vmtest.VM) string {
	t.Helper()
	onESP(t, v, "rw", `echo other >>EFI/BOOT/BOOTX64.EFI; sync EFI/BOOT/BOOTX64.EFI`)
	return sumOnESP(t, v, "EFI/BOOT/BOOTX64.EFI")
}

func sumOnESP(t testing.TB, v *vmtest.VM, files string) string {
	t.Helper()
	return onESP(t, v, "ro", "sha256sum "+files)
}

func wantFirmware(t testing.TB, st *update.Status, state string) {
	t.Helper()
	if st.Firmware == nil || st.Firmware.State != state {
		t.Errorf("firmware = %+v, want %s", st.Firmware, state)
	}
}

// The boot loader is refreshed from the running image. The plug is pulled at random moments of
// it, and whatever the disk has lost, the machine starts from cold through its firmware with
// the old boot loader or the new one, and the refresh then completes.
func TestFirmwareCuts(t *testing.T) {
	l := theLab(t)
	rnd := rand.New(rand.NewPCG(*seed, 8))
	v := l.booted(t, *seed)
	const kernels = "EFI/eos/a.efi EFI/eos/a.sum EFI/eos/a.efi.extra.d/* EFI/eos/b.efi.extra.d/*"
	const states = "EFI/eos/bootstate EFI/eos/bootstate2 EFI/eos/record"

	wantFirmware(t, settled(t, v), update.FirmwareCurrent)
	refused(t, v, 3, "is that of version 1.0.0", "--firmware")
	current, before := sumOnESP(t, v, "EFI/BOOT/BOOTX64.EFI"), sumOnESP(t, v, kernels)

	other := spoil(t, v)
	if other == current {
		t.Fatal("the boot loader is still the image's")
	}
	wantFirmware(t, status(t, v), update.FirmwareOther)
	stateBefore := sumOnESP(t, v, states)
	refused(t, v, 0, "would be replaced", "--firmware --dry-run")
	wantFirmware(t, status(t, v), update.FirmwareOther)
	began := time.Now()
	v.MustSSH(t, "os-update --firmware")
	span := time.Since(began)
	wantFirmware(t, status(t, v), update.FirmwareCurrent)
	if got := sumOnESP(t, v, states); got != stateBefore {
		t.Errorf("boot state or record have changed:\n%s\nwant\n%s", got, stateBefore)
	}
	sum := func(line string) string { s, _, _ := strings.Cut(line, " "); return s }
	if got := sumOnESP(t, v, "EFI/BOOT/BOOTX64.OLD"); sum(got) != sum(other) {
		t.Errorf("BOOTX64.OLD = %s, want the loader that was there, %s", got, other)
	}
	t.Logf("a refresh takes %v; %d cuts, seed %d", span.Round(10*time.Millisecond), firmwareCuts(), *seed)

	for range firmwareCuts() {
		other = spoil(t, v)
		began := time.Now()
		v.MustSSH(t, "systemd-run --quiet os-update --firmware")
		time.Sleep(time.Duration(rnd.Float64() * 1.2 * float64(span)))
		moment := time.Since(began)
		v.PowerCut(t)

		v.Boot(t)
		v.Expect(t, `EOS: slot a`, limit)
		v.WaitBoot(t)
		wantRunning(t, v, settled(t, v), bootstate.A, "1.0.0")
		loader := sumOnESP(t, v, "EFI/BOOT/BOOTX64.EFI")
		t.Logf("cut after %v: the new loader is in place: %v", moment.Round(10*time.Millisecond), loader == current)
		if loader != current && loader != other {
			t.Fatalf("the boot loader is %s, want %s or %s", loader, other, current)
		}
		if out, code := v.SSH(t, "os-update --firmware"); code != 0 && (code != 3 || loader != current) {
			t.Fatalf("os-update --firmware after the cut: exit %d\n%s", code, out)
		}
		wantFirmware(t, status(t, v), update.FirmwareCurrent)
		if got := sumOnESP(t, v, "EFI/BOOT/BOOTX64.EFI"); got != current {
			t.Fatalf("the boot loader is %s, want %s", got, current)
		}
		if got := sumOnESP(t, v, "EFI/BOOT/BOOTX64.OLD"); sum(got) != sum(other) {
			t.Errorf("BOOTX64.OLD = %s, want the loader that was there, %s", got, other)
		}
	}
	if got := sumOnESP(t, v, kernels); got != before {
		t.Errorf("kernel images or addons have changed:\n%s\nwant\n%s", got, before)
	}
	v.PowerCut(t)
	v.Boot(t)
	v.WaitBoot(t)
	st := settled(t, v)
	wantRunning(t, v, st, bootstate.A, "1.0.0")
	wantFirmware(t, st, update.FirmwareCurrent)
}
