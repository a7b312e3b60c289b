package vm_test

import (
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// A device with one slot boots and proves itself, and says that it has nowhere to write an
// update to.
func TestStatic(t *testing.T) {
	l := theLab(t)
	out := filepath.Join(l.dir, "static")
	if _, err := l.eos("build", "-f", filepath.Join(l.root, "images/minimal.yaml"), "--profile", "Static", "--dev", "-o", out); err != nil {
		t.Fatal(err)
	}
	v := vmtest.Start(t, vmtest.Config{Image: filepath.Join(out, "minimal-1.0.0.raw"), Key: l.sshKey(t)})
	v.WaitBoot(t)
	if st := settled(t, v); st.Running != bootstate.A || len(st.Slots) != 1 {
		t.Errorf("status of a static device = %+v", st)
	}
	s := l.serve(t, l.publish(t, l.v2(t)))
	refused(t, v, 4, "no second slot", "--apply --server "+s.URL())
	refused(t, v, 4, "no second slot", "--rollback")
}
