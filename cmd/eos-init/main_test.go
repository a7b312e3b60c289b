package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/initramfs"
	"github.com/OSInside/eos/internal/initramfs/kerneltest"
)

// forbidden packages and why they may not be linked into the only program of
// the initramfs: it is unpacked and run at each boot, and what it reads decides
// what is trusted.
var forbidden = map[string]string{
	"net/http":                           "there is no network",
	"crypto/tls":                         "there is no network",
	"os/exec":                            "there is no other program",
	"go.yaml.in/yaml/v3":                 "it has no configuration file",
	"github.com/spf13/cobra":             "it has no command line of its own",
	"github.com/klauspost/compress/zstd": "modules in the initramfs are uncompressed",
}

func TestDependencies(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("go list -deps found %d packages, the list cannot be right", len(deps))
	}
	for _, d := range deps {
		if why, ok := forbidden[d]; ok {
			t.Errorf("eos-init links %s: %s", d, why)
		}
	}
}

const (
	maxProgram   = 5 << 20 // 3.7 MB when this was written
	maxInitramfs = 8 << 20 // compressed; a promise
)

// The sizes that every boot pays for.
func TestSize(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "eos-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if len(program) > maxProgram {
		t.Errorf("eos-init has %d bytes, want at most %d", len(program), maxProgram)
	}
	k := kerneltest.Open(t)
	var out bytes.Buffer
	if _, err := initramfs.Build(&out, initramfs.Config{
		Init: program, Tree: os.DirFS(k.Modules), KernelVersion: k.Version, BuildID: "size",
		Keys: []initramfs.Key{{Name: "a.pub", PEM: []byte("a key is about this long, and it hardly matters")}},
	}); err != nil {
		t.Fatal(err)
	}
	if out.Len() > maxInitramfs {
		t.Errorf("compressed initramfs has %d bytes, want at most %d", out.Len(), maxInitramfs)
	}
	t.Logf("eos-init %d bytes, compressed initramfs %d bytes", len(program), out.Len())
}

// Anywhere but as process 1 of an initramfs it must do nothing at all.
func TestNotProcessOne(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "eos-init")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), "not process 1") {
		t.Errorf("eos-init as an ordinary process = %v, %q, want status 2 and why", err, out)
	}
}
