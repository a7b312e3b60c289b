package vmtest

import (
	"os"
	"testing"
)

// OtherTPM puts another, new TPM into the machine, which is off. The returned call puts the
// machine's own back.
func (v *VM) OtherTPM(t testing.TB) (back func()) {
	t.Helper()
	v.needOff(t)
	own := v.path("tpm.own")
	if err := os.Rename(v.path("tpm"), own); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		v.needOff(t)
		if err := os.RemoveAll(v.path("tpm")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(own, v.path("tpm")); err != nil {
			t.Fatal(err)
		}
	}
}

// GrowDisk makes the disk larger, as one that was copied to another. The machine must be off.
func (v *VM) GrowDisk(t testing.TB, size int64) {
	t.Helper()
	v.needOff(t)
	if err := v.disk.Grow(size); err != nil {
		t.Fatal(err)
	}
}

// Unplug takes the second disk out of the machine, which is off. The returned call puts it back.
func (v *VM) Unplug(t testing.TB) (plug func()) {
	t.Helper()
	v.needOff(t)
	disk, size := v.registry, v.config.RegistrySize
	v.registry, v.config.RegistrySize = nil, 0
	t.Cleanup(func() {
		if v.registry == nil {
			disk.server.Close()
			disk.Close()
		}
	})
	return func() { v.registry, v.config.RegistrySize = disk, size }
}
