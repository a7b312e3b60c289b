package vm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// The whole life of one machine, in the order of a device's life: update by kexec, commit,
// power cut and cold boot, a committed slot that breaks twice over, rollback.
func TestUpdate(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 1)
	s := l.serve(t, l.publish(t, l.v2(t)))
	wantRunning(t, v, settled(t, v), bootstate.A, "1.0.0")
	refused(t, v, 10, "2.0.0", "--check --server "+s.URL())
	refused(t, v, 4, "", "--rollback") // slot B is empty

	began := time.Now()
	apply(t, v, s)
	t.Logf("applied in %v", time.Since(began).Round(time.Second))
	v.WaitReboot(t, limit)
	st := settled(t, v)
	wantRunning(t, v, st, bootstate.B, "2.0.0")
	t.Logf("up again and committed after %v", time.Since(began).Round(time.Second))
	if out := v.MustSSH(t, "cat /proc/cmdline"); !strings.Contains(out, "COMMIT_UPDATE") {
		t.Errorf("command line of the trial: %q", out)
	}
	refused(t, v, 3, "", "--check --server "+s.URL())

	v.PowerCut(t)
	v.Boot(t)
	v.Expect(t, `EOS: slot b`, limit)
	v.WaitBoot(t)
	wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")

	t.Run("kernel image breaks", func(t *testing.T) {
		v.PowerCut(t)
		flipInKernel(t, v, "b.efi")
		v.Boot(t)
		v.Expect(t, `the kernel image of slot b cannot be used`, limit)
		v.Expect(t, `EOS: slot a \(fallback`, limit)
		v.WaitBoot(t)
		st := settled(t, v)
		if st.Running != bootstate.A || st.Default != bootstate.B || !st.FellBack {
			t.Errorf("status after the fallback = %+v", st)
		}
		if k := slotOf(t, st, bootstate.B).Kernel; k == "ok" {
			t.Error("status says that the broken kernel image is ok")
		}
	})
	t.Run("rollback heals it", func(t *testing.T) {
		// From the fallback the way back to B is a rollback, which checks and repairs all of it.
		v.MustSSH(t, "os-update --rollback")
		v.SSH(t, "os-update --reboot")
		v.WaitReboot(t, limit)
		wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")
	})
	t.Run("file system breaks", func(t *testing.T) {
		v.PowerCut(t)
		p := v.Partition(t, "p.lxrootclone1")
		// The superblock: the manifest can no longer be found.
		if _, err := p.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		v.Boot(t)
		for range 4 { // one start on the word of the last boot, three tries
			v.Expect(t, `EOS: slot b`, limit)
			v.Expect(t, `eos-init: cannot boot slot b`, limit)
		}
		v.Expect(t, `EOS: slot a \(fallback`, limit)
		v.WaitBoot(t)
		st := settled(t, v)
		if st.Running != bootstate.A || !st.FellBack || st.Version != "1.0.0" {
			t.Errorf("status after the fallback = %+v", st)
		}
		refused(t, v, 4, "", "--rollback") // nothing there to go back to
	})
	t.Run("and is written again", func(t *testing.T) {
		apply(t, v, s, "--version", "2.0.0")
		v.WaitReboot(t, limit)
		wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")
		v.MustSSH(t, "os-update --rollback")
		v.SSH(t, "os-update --reboot")
		v.WaitReboot(t, limit)
		wantRunning(t, v, settled(t, v), bootstate.A, "1.0.0")
	})
}

// flipInKernel changes one bit in the middle of a kernel image on the ESP.
func flipInKernel(t *testing.T, v *vmtest.VM, name string) {
	t.Helper()
	tree, err := toolstree.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.EditPartition(t, "p.UEFI", func(esp string) {
		file := filepath.Join(t.TempDir(), name)
		mtools := func(args ...string) {
			t.Helper()
			c := tree.Command(args...)
			cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
			cmd.Env = c.Env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
		mtools("mcopy", "-i", esp, "::EFI/eos/"+name, file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x10
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		mtools("mcopy", "-o", "-i", esp, file, "::EFI/eos/"+name)
	})
}

func TestActivateByReboot(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 2)
	s := l.serve(t, l.publish(t, l.v2(t)))
	apply(t, v, s, "--activate", "reboot")
	v.Expect(t, `EOS: slot b \(trial\)`, limit)
	v.WaitReboot(t, limit)
	wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")
	if out := v.MustSSH(t, "cat /proc/cmdline"); strings.Contains(out, "COMMIT_UPDATE") {
		t.Errorf("a trial through the firmware has a kexec command line: %q", out)
	}
}

// Trials that end badly, each in its own way, come back in the old slot, and the version is
// remembered and not tried again by itself.
func TestFailedTrial(t *testing.T) {
	l := theLab(t)
	for _, c := range []struct {
		name   string
		image  func(testing.TB) *built
		during func(t *testing.T, v *vmtest.VM)
		reason string
	}{
		{"power cut", l.v2, func(t *testing.T, v *vmtest.VM) {
			v.Expect(t, `eos-init: slot b version 2.0.0 verified`, limit)
			v.PowerCut(t)
			v.Boot(t)
		}, "trial of 2.0.0"},
		{"health", l.sick, nil, "test-health.service"},
		{"no network", l.deaf, nil, "os-update-confirm.service"},
		{"hang", l.hung, func(t *testing.T, v *vmtest.VM) {
			v.Expect(t, `test: this init hangs`, limit)
		}, "trial of 2.2.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := c.image(t)
			v := l.booted(t, 3)
			s := l.serve(t, l.publish(t, image))
			apply(t, v, s)
			if c.during != nil {
				c.during(t, v)
			}
			v.Expect(t, `EOS: slot a`, limit)
			v.WaitReboot(t, limit)
			st := settled(t, v)
			wantRunning(t, v, st, bootstate.A, "1.0.0")
			if got := slotOf(t, st, bootstate.B).Status; got != bootstate.Failed {
				t.Errorf("status of slot b = %s, want failed", got)
			}
			if len(st.Failed) != 1 || st.Failed[0].Version != image.Version || !strings.Contains(st.Failed[0].Reason, c.reason) {
				t.Errorf("failed versions = %s, want %s with %q", failedVersions(st), image.Version, c.reason)
			}
			refused(t, v, 4, "failed", "--apply --server "+s.URL())
			refused(t, v, 4, "", "--rollback") // never committed
		})
	}
}

// A bit that flips in the slot that was written is found before activation; one in the slot
// that runs is an I/O error, never wrong data.
func TestFlippedBit(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 4)
	s := l.serve(t, l.publish(t, l.v2(t)))
	flip := func(device string, off int64) {
		t.Helper()
		v.MustSSH(t, fmt.Sprintf(`set -e
			b=$(od -An -tu1 -j %[2]d -N1 %[1]s | tr -d ' ')
			printf "\\$(printf %%o $((b ^ 4)))" | dd of=%[1]s bs=1 seek=%[2]d conv=notrunc,fsync status=none
			echo 3 >/proc/sys/vm/drop_caches`, device, off))
	}
	st := status(t, v)
	a, b := slotOf(t, st, bootstate.A).Device, slotOf(t, st, bootstate.B).Device
	size := imageSize(t, l.v2(t))
	for i, off := range []int64{5000, size / 3, size - 3<<20, size - 100} { // the last is in the hash tree
		out := v.MustSSH(t, "os-update --apply --download-only --server "+s.URL()+" 2>&1")
		if i > 0 && !strings.Contains(out, "writing it again") {
			t.Errorf("flipped bit before offset %d was not noticed:\n%s", off, out)
		}
		flip(b, off)
	}
	out := v.MustSSH(t, "os-update --apply --download-only --server "+s.URL()+" 2>&1")
	if !strings.Contains(out, "writing it again") {
		t.Errorf("flipped bit in the hash tree was not noticed:\n%s", out)
	}

	flip(a, imageSize(t, l.v1(t))/2)
	out, code := v.SSH(t, "cat "+a+" >/dev/null && echo 3 >/proc/sys/vm/drop_caches; cat /dev/mapper/eos-root >/dev/null")
	if code == 0 || !strings.Contains(out, "Input/output error") {
		t.Errorf("reading a root with a flipped bit: exit %d, %s", code, out)
	}
}

func imageSize(t *testing.T, b *built) int64 {
	t.Helper()
	st, err := os.Stat(b.Slot)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// An apply that is killed and one that loses its link are continued.
func TestResume(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 5)
	repo := l.publish(t, l.v2(t))
	s := l.serve(t, repo)
	rate := " --limit-rate 500KiB"
	// What the two images share comes from the running slot; a device that has lost it
	// fetches everything. Here it is the rest that has to last.
	v.MustSSH(t, "os-update --apply --download-only --server "+s.URL()+rate+` >/run/first 2>&1 & p=$!
		timeout 120 sh -c 'until os-update --status --json | grep -q "\"updating\": *{"; do sleep 0.5; done'; kill -KILL $p; wait $p; true`)
	if st := status(t, v); st.Updating == nil || slotOf(t, st, bootstate.B).Status != bootstate.Empty {
		t.Fatalf("after a killed apply: %+v\n%s", st, v.MustSSH(t, "cat /run/first"))
	}
	v.MustSSH(t, "(os-update --apply --download-only --json --server "+s.URL()+rate+" >/run/second 2>&1; echo $? >/run/code) </dev/null >/dev/null 2>&1 &")
	time.Sleep(8 * time.Second) // the moment does not matter
	s.stop()
	v.MustSSH(t, "timeout 300 sh -c 'until [ -e /run/code ]; do sleep 1; done'")
	if code := v.MustSSH(t, "cat /run/code"); code != "7" && code != "0" {
		t.Errorf("apply without a server: exit %s\n%s", code, v.MustSSH(t, "cat /run/second"))
	}
	s.start(t, l, repo)
	out := v.MustSSH(t, "os-update --apply --download-only --server "+s.URL()+" 2>&1")
	if !strings.Contains(out, "continued an interrupted update") && !strings.Contains(v.MustSSH(t, "cat /run/second"), "continued") {
		t.Errorf("the resumed apply does not say what it reused:\n%s", out)
	}
	if st := status(t, v); slotOf(t, st, bootstate.B).Status != bootstate.Written {
		t.Errorf("after the resumed apply: %+v", st)
	}
}

// Somebody who looks at the boot partition meanwhile holds nothing up for good: least of all
// a commit, which would end a trial that is healthy.
func TestWatched(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 7)
	s := l.serve(t, l.publish(t, l.v2(t)))
	v.MustSSH(t, `set -e
		esp=$(sed -n 's/.*"esp": *"\([^"]*\)".*/\1/p' /run/eos/boot.json)
		mkdir /run/watch && mount -o ro "$esp" /run/watch
		(sleep 8; umount /run/watch) </dev/null >/dev/null 2>&1 &`)
	v.MustSSH(t, "os-update --apply --download-only --server "+s.URL())
	v.MustSSH(t, "(while :; do os-update --status; done) </dev/null >/dev/null 2>&1 &")
	apply(t, v, s)
	v.WaitReboot(t, limit)
	v.MustSSH(t, "(while :; do os-update --status --json; done) </dev/null >/dev/null 2>&1 &")
	wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")
}

// Nothing below / can be written but tmpfs.
func TestReadOnly(t *testing.T) {
	l := theLab(t)
	v := l.booted(t, 6)
	out := v.MustSSH(t, `
		for d in $(find / -xdev -type d); do
			[ "$(stat -f -c %T "$d")" = squashfs ] || continue # a mount point
			if (: >"$d/eos-write-test") 2>/dev/null; then echo "$d"; fi
		done
		findmnt -rn -o TARGET,FSTYPE,OPTIONS | while read -r target type options; do
			case $type in
			tmpfs|devtmpfs|ramfs|proc|sysfs|cgroup2|devpts|mqueue|securityfs|debugfs|tracefs|configfs|pstore|bpf|hugetlbfs|fusectl|efivarfs|autofs|binfmt_misc|rpc_pipefs) continue ;;
			esac
			case ,$options, in *,ro,*) continue ;; esac
			echo "$target is a writable $type"
		done`)
	if out != "" {
		t.Errorf("writable places outside tmpfs:\n%s", out)
	}
	if out, code := v.SSH(t, "mount -o remount,rw /"); code == 0 {
		t.Errorf("the root can be remounted for writing: %s", out)
	}
}
