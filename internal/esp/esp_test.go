package esp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/esp"
)

func image(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ seed ^ byte(i>>8)
	}
	return b
}

func install(v *esp.Volume, s bootstate.Slot, b []byte) error {
	return v.InstallKernel(context.Background(), s, bytes.NewReader(b), int64(len(b)))
}

func TestInstallKernel(t *testing.T) {
	v := esp.Dir(t.TempDir())
	const mib = 1 << 20
	for _, c := range []struct{ image, file int }{
		{300_000, mib}, {200_001, mib}, {mib, mib}, // the file keeps its size
		{mib + 1, 2 * mib}, {300_000, 2 * mib}, // and grows only for what does not fit
	} {
		img := image(c.image, byte(c.image))
		if err := install(v, "b", img); err != nil {
			t.Fatal(err)
		}
		want := append(img, make([]byte, c.file-c.image)...)
		got, err := os.ReadFile(v.Path("EFI/eos/b.efi"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("file of a kernel image of %d bytes has %d, %v; want the image and zeros, %d in all", c.image, len(got), err, c.file)
		}
		sum, err := os.ReadFile(v.Path("EFI/eos/b.sum"))
		if want := fmt.Sprintf("%x  /EFI/eos/b.efi\n", sha256.Sum256(want)); err != nil || string(sum) != want {
			t.Errorf("b.sum = %q, %v, want %q", sum, err, want)
		}
		if err := v.SameKernel(t.Context(), "b", bytes.NewReader(img), int64(len(img))); err != nil {
			t.Errorf("SameKernel(b) = %v, want nil", err)
		}
		if err := v.SameKernel(t.Context(), "b", bytes.NewReader(img[1:]), int64(len(img)-1)); err == nil {
			t.Error("SameKernel(b) of another image = nil")
		}
		if err := v.CheckKernel("b"); err != nil {
			t.Errorf("CheckKernel(b) = %v, want nil", err)
		}
	}
	if _, err := os.Stat(v.Path("EFI/eos/a.efi")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of the other slot's image = %v, want none", err)
	}
}

func TestInstallKernelTwiceWritesNothing(t *testing.T) {
	v := esp.Dir(t.TempDir())
	img := image(10_000, 1)
	if err := install(v, "a", img); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(v.Path("EFI/eos/a.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if err := install(v, "a", img); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(v.Path("EFI/eos/a.efi"))
	if err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("second install changed the file at %v, %v, want it untouched since %v", after.ModTime(), err, before.ModTime())
	}
}

// failing reads whole on the first pass (the hash) and fails after n bytes on
// the second (the copy), which is where a cut hurts.
type failing struct {
	*bytes.Reader
	n    int64
	pass int
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 {
		f.pass++
	}
	if f.pass > 1 && off+int64(len(p)) > f.n {
		return 0, io.ErrNoProgress
	}
	return f.Reader.ReadAt(p, off)
}

func TestInstallKernelCutIsNeverValid(t *testing.T) {
	old, img := image(1_000_000, 1), image(1_200_000, 2)
	for _, n := range []int64{0, 300_000, 600_000, 1_100_000} {
		v := esp.Dir(t.TempDir())
		if err := install(v, "b", old); err != nil {
			t.Fatal(err)
		}
		err := v.InstallKernel(context.Background(), "b", &failing{Reader: bytes.NewReader(img), n: n}, int64(len(img)))
		if !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("InstallKernel cut after %d = %v, want %v", n, err, io.ErrNoProgress)
		}
		var k *esp.KernelError
		if err := v.CheckKernel("b"); !errors.As(err, &k) || k.Slot != "b" {
			t.Errorf("CheckKernel after a cut at %d = %v, want a KernelError", n, err)
		}
		if err := install(v, "b", img); err != nil {
			t.Errorf("InstallKernel after a cut at %d = %v, want nil", n, err)
		}
		if err := v.CheckKernel("b"); err != nil {
			t.Errorf("CheckKernel after repair = %v, want nil", err)
		}
	}
}

func TestCheckKernelRefuses(t *testing.T) {
	good := image(5000, 1)
	for _, c := range []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"flipped bit", "sha256 is", func(dir string) error {
			b := bytes.Clone(good)
			b[4000] ^= 1
			return os.WriteFile(filepath.Join(dir, "a.efi"), b, 0o600)
		}},
		{"cut", "sha256 is", func(dir string) error { return os.Truncate(filepath.Join(dir, "a.efi"), 4999) }},
		{"no image", "there is no EFI/eos/a.efi", func(dir string) error { return os.Remove(filepath.Join(dir, "a.efi")) }},
		{"no sum", "there is no checksum file", func(dir string) error { return os.Remove(filepath.Join(dir, "a.sum")) }},
		{"empty sum", "damaged", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a.sum"), nil, 0o600) }},
		{"other file's sum", "damaged", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.sum"), fmt.Appendf(nil, "%x  /EFI/eos/b.efi\n", sha256.Sum256(good)), 0o600)
		}},
		{"long sum", "more than 512", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.sum"), bytes.Repeat([]byte("x"), 600), 0o600)
		}},
	} {
		dir := t.TempDir()
		v := esp.Dir(dir)
		if err := install(v, "a", good); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(filepath.Join(dir, "EFI/eos")); err != nil {
			t.Fatal(err)
		}
		if err := v.CheckKernel("a"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("CheckKernel(%s) = %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestInstallKernelRefuses(t *testing.T) {
	v := esp.Dir(t.TempDir())
	if err := install(v, "a", nil); err == nil {
		t.Error("InstallKernel of nothing = nil, want an error")
	}
	if err := v.InstallKernel(context.Background(), "a", bytes.NewReader([]byte("abc")), 9); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("InstallKernel of a short image = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := v.InstallKernel(ctx, "a", bytes.NewReader([]byte("abc")), 3); !errors.Is(err, context.Canceled) {
		t.Errorf("InstallKernel(cancelled) = %v, want %v", err, context.Canceled)
	}
	if err := v.InstallKernel(context.Background(), "a", nothing{}, 1<<50); err == nil || strings.Contains(err.Error(), "internal") {
		t.Errorf("InstallKernel of an endless image = %v, want an error", err)
	}
}

// nothing is an image that cannot be read.
type nothing struct{}

func (nothing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }
