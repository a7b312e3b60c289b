package kerneltest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/initramfs/kerneltest"
)

func TestOpen(t *testing.T) {
	k := kerneltest.Open(t)
	for _, f := range []string{k.Image, filepath.Join(k.Modules, "modules.dep"), filepath.Join(k.Modules, "modules.builtin")} {
		if fi, err := os.Stat(f); err != nil || fi.Size() == 0 {
			t.Errorf("Open(): %s is missing or empty (%v)", f, err)
		}
	}
	if filepath.Base(k.Modules) != k.Version {
		t.Errorf("Open() = modules %s, want those of %s", k.Modules, k.Version)
	}
}
