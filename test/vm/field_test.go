package vm_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// An image as devices in the field get it, built without --dev: it boots, proves itself, and
// lets nobody in, neither by ssh nor at the console.
func TestFieldImage(t *testing.T) {
	l := theLab(t)
	out := filepath.Join(l.dir, "field")
	if _, err := l.eos("build", "-f", filepath.Join(l.root, "images/minimal.yaml"), "-o", out); err != nil {
		t.Fatal(err)
	}
	v := vmtest.Start(t, vmtest.Config{Image: filepath.Join(out, "minimal-1.0.0.raw"), Key: l.sshKey(t)})
	v.Expect(t, `EOS: slot a`, limit)
	awaitProof(t, v)

	ctx, cancel := context.WithTimeout(t.Context(), vmtest.Slow(20*time.Second))
	defer cancel()
	r, err := v.TryRun(ctx, "id", nil)
	// Who is turned away a few times is not even greeted any more.
	if err == nil || !strings.Contains(err.Error(), "unable to authenticate") && !strings.Contains(err.Error(), "Not allowed at this time") {
		t.Errorf("ssh with the developer's key: %+v, %v, want it turned away", r, err)
	}
	v.Send(t, "\r\rroot\r")
	time.Sleep(5 * time.Second) // for an answer that must not come
	console := v.Console(t)
	for _, bad := range []string{"login:", "Password:", "Press Enter for maintenance", "automatic login"} {
		if strings.Contains(console, bad) {
			t.Errorf("the console says %q", bad)
		}
	}
}

// awaitProof waits until the boot state on the disk says that slot a is good. Nobody can be
// asked, and systemd leaves out lines of what it says on a slow console.
func awaitProof(t *testing.T, v *vmtest.VM) {
	t.Helper()
	esp := v.Partition(t, "p.UEFI")
	all := make([]byte, esp.Size)
	if _, err := esp.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	at := int64(bytes.Index(all, []byte("# GRUB Environment Block\ndefault=")))
	if at < 0 {
		t.Fatal("there is no boot state on the disk")
	}
	deadline := time.Now().Add(vmtest.Slow(limit))
	for block := all[:bootstate.BlockSize]; ; time.Sleep(time.Second) {
		if _, err := esp.ReadAt(block, at); err != nil {
			t.Fatal(err)
		}
		if s, err := bootstate.Parse(block); err == nil && s.A.Good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the boot has not proved itself; boot state %.200q", block)
		}
	}
}
