package vm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/update"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }

// limit bounds every wait for a boot under software emulation.
const limit = 6 * time.Minute

// sshKey is the private key that lets the tests into their images.
func (l *lab) sshKey(t testing.TB) string {
	t.Helper()
	return filepath.Join(l.keys, "ssh_ed25519")
}

// booted is a machine that runs version 1, from a saved state.
func (l *lab) booted(t testing.TB, seed uint64) *vmtest.VM {
	t.Helper()
	v := vmtest.Start(t, vmtest.Config{From: l.snapshot(t), Key: l.sshKey(t), Seed: seed})
	v.WaitBoot(t)
	return v
}

// snapshot is version 1, booted and proved.
func (l *lab) snapshot(t testing.TB) *vmtest.Snapshot {
	t.Helper()
	return vmtest.Booted(t, vmtest.Config{Image: l.v1(t).Raw, Key: l.sshKey(t)})
}

func status(t testing.TB, v *vmtest.VM) *update.Status {
	t.Helper()
	var st update.Status
	out := v.MustSSH(t, "os-update --status --json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("parse status: %v\n%s", err, out)
	}
	return &st
}

func slotOf(t testing.TB, st *update.Status, x bootstate.Slot) update.SlotStatus {
	t.Helper()
	for _, s := range st.Slots {
		if s.Slot == x {
			return s
		}
	}
	t.Fatalf("status has no slot %s: %+v", x, st)
	return update.SlotStatus{}
}

// settled waits until the running boot has proved itself: committed and good.
func settled(t testing.TB, v *vmtest.VM) *update.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), vmtest.Slow(limit))
	defer cancel()
	// Asking --status all the time would cost an emulated machine more than booting does.
	const unit = "os-update-commit.service"
	for {
		r, err := v.TryRun(ctx, "until systemctl -q is-active "+unit+" || systemctl -q is-failed "+unit+"; do sleep 0.5; done", nil)
		if err != nil {
			t.Fatalf("the boot has not proved itself: %v\n%s", err, v.MustSSH(t, "os-update --status; systemctl --failed; systemctl list-jobs"))
		}
		if r.Code == vmtest.Lost {
			continue // restarted meanwhile
		}
		st := status(t, v)
		if s := slotOf(t, st, st.Running); s.Status != bootstate.Committed || s.Good == nil || !*s.Good {
			t.Fatalf("%s has ended, and slot %s is %+v\n%s", unit, st.Running, s, v.MustSSH(t, "systemctl status "+unit+"; systemctl --failed"))
		}
		return st
	}
}

// wantRunning checks what runs and what is the default.
func wantRunning(t testing.TB, v *vmtest.VM, st *update.Status, x bootstate.Slot, version string) {
	t.Helper()
	if st.Running != x || st.Default != x || st.Version != version {
		t.Fatalf("running slot %s version %s, default %s; want slot %s version %s\n%s",
			st.Running, st.Version, st.Default, x, version, v.MustSSH(t, "os-update --status"))
	}
	if got := v.MustSSH(t, "cat /etc/eos-test-version"); got != version {
		t.Fatalf("/etc/eos-test-version = %q, want %q", got, version)
	}
}

// apply starts an update that ends in a jump; the connection may be lost by it.
func apply(t testing.TB, v *vmtest.VM, s *server, args ...string) string {
	t.Helper()
	out, code := v.SSH(t, "os-update --apply --server "+s.URL()+" "+strings.Join(args, " "))
	if code != 0 && code != vmtest.Lost {
		t.Fatalf("os-update --apply: exit %d\n%s", code, out)
	}
	return out
}

// refused runs os-update and wants an exit code and words.
func refused(t testing.TB, v *vmtest.VM, code int, words, args string) {
	t.Helper()
	out, got := v.SSH(t, "os-update "+args)
	if got != code || !strings.Contains(out, words) {
		t.Errorf("os-update %s: exit %d, want %d with %q\n%s", args, got, code, words, out)
	}
}

func failedVersions(st *update.Status) string {
	var list []string
	for _, f := range st.Failed {
		list = append(list, fmt.Sprintf("%s (%s)", f.Version, f.Reason))
	}
	return strings.Join(list, ", ")
}
