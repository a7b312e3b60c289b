package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The verdict comes from a guest that runs, not from a device that is there.
func TestChoose(t *testing.T) {
	cache := t.TempDir()
	device := filepath.Join(cache, "kvm")
	choose := func(script, tools string) (Accel, string) {
		t.Helper()
		h := Host{Tree: named{fakeTools{script}, tools}, Cache: cache, kvm: device}
		use, why, err := h.Choose(t.Context(), Auto)
		if err != nil {
			t.Fatal(err)
		}
		return use, why
	}
	if use, why := choose("exit 1", "t0"); use != TCG || !strings.Contains(why, "has no") {
		t.Errorf("without the device Choose = %s, %q, want tcg", use, why)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if use, why := choose("echo msr >&2; exit 1", "t1"); use != TCG || !strings.Contains(why, "msr") {
		t.Errorf("with a QEMU that fails Choose = %s, %q, want tcg and its words", use, why)
	}
	works := "printf Bds; sleep 0.1; printf 'Dxe: loading'; exec sleep 600"
	if use, _ := choose(works, "t1"); use != TCG {
		t.Errorf("the verdict was not kept: Choose = %s, want tcg", use)
	}
	if use, why := choose(works, "t2"); use != KVM || why != "" {
		t.Errorf("with other tools and a guest that works Choose = %s, %q, want kvm", use, why)
	}
	if use, _ := choose("exit 1", "t2"); use != KVM {
		t.Errorf("the verdict was not kept: Choose = %s, want kvm", use)
	}
	if err := os.WriteFile(filepath.Join(cache, "accel.json"), []byte(`{"boot":"another","tools":"t2","kvm":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if use, _ := choose("exit 1", "t2"); use != TCG {
		t.Errorf("the verdict of another boot counts: Choose = %s, want tcg", use)
	}
	for _, fixed := range []Accel{KVM, TCG} {
		if use, why, err := (Host{}).Choose(t.Context(), fixed); use != fixed || why != "" || err != nil {
			t.Errorf("Choose(%s) = %s, %q, %v", fixed, use, why, err)
		}
	}
}

type named struct {
	fakeTools
	name string
}

func (n named) String() string { return n.name }

func TestParseAccel(t *testing.T) {
	for _, s := range []string{"auto", "kvm", "tcg"} {
		if a, err := ParseAccel(s); err != nil || string(a) != s {
			t.Errorf("ParseAccel(%q) = %q, %v", s, a, err)
		}
	}
	for _, s := range []string{"", "KVM", "xen"} {
		if _, err := ParseAccel(s); err == nil {
			t.Errorf("ParseAccel(%q) succeeded", s)
		}
	}
}
