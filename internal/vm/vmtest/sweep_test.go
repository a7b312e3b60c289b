package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestSweep(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		stay bool
	}{
		{fmt.Sprintf("eos-vm-%d-x", dead.Process.Pid), false},
		{fmt.Sprintf("eos-vm-%d-x", os.Getpid()), true},
		{"eos-vm-mine", true},
		{fmt.Sprintf("other-%d-x", dead.Process.Pid), true},
	} {
		path := filepath.Join(dir, tt.name)
		if err := os.MkdirAll(filepath.Join(path, "vm1"), 0o700); err != nil {
			t.Fatal(err)
		}
		sweep(dir)
		if _, err := os.Stat(path); (err == nil) != tt.stay {
			t.Errorf("after sweep %s is there: %v, want %v", tt.name, err == nil, tt.stay)
		}
	}
}

func TestSlow(t *testing.T) {
	for value, want := range map[string]string{"": "1m0s", "3": "3m0s", "0.5": "30s", "x": "1m0s", "-1": "1m0s"} {
		t.Setenv("EOS_TEST_SLOW", value)
		if got := Slow(60e9).String(); got != want {
			t.Errorf("with EOS_TEST_SLOW=%s Slow(1m) = %s, want %s", value, got, want)
		}
	}
}
