package esp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	loader   = "EFI/BOOT/BOOTX64.EFI"
	fresh    = "EFI/BOOT/BOOTX64.NEW"
	previous = "EFI/BOOT/BOOTX64.OLD"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ seed ^ byte(i>>8)
	}
	return b
}

// volume is a folder with a loader, slots and boot state.
func volume(t *testing.T, loaderIs []byte) *Volume {
	t.Helper()
	v := Dir(t.TempDir())
	for name, b := range map[string][]byte{
		loader: loaderIs, "EFI/eos/a.efi": pattern(5000, 3), "EFI/eos/a.sum": pattern(80, 4), "EFI/eos/bootstate": pattern(1024, 5),
	} {
		if err := os.MkdirAll(filepath.Dir(v.Path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(v.Path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// files reads a whole volume.
func files(t *testing.T, v *Volume) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(v.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(v.dir, path)
		out[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (v *Volume) installBytes(name string, b []byte) error {
	return v.InstallFirmware(context.Background(), name, bytes.NewReader(b), int64(len(b)))
}

func TestInstallFirmware(t *testing.T) {
	versions := [][]byte{pattern(30_000, 1), pattern(40_001, 2), pattern(20_000, 6), pattern(20_000, 6)}
	v := volume(t, versions[0])
	want := files(t, v)
	for i, b := range versions {
		if i > 0 && !bytes.Equal(b, versions[i-1]) {
			want[previous] = want[loader]
			want[loader] = string(b)
		}
		if err := v.installBytes(loader, b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, files(t, v)); diff != "" {
			t.Fatalf("after version %d:\n%s", i, diff)
		}
		sum := sha256.Sum256(b)
		if got, err := v.FirmwareSum(t.Context(), loader); err != nil || !bytes.Equal(got, sum[:]) {
			t.Errorf("FirmwareSum = %x, %v, want %x", got, err, sum)
		}
	}
	// One that the volume did not have.
	if _, err := v.FirmwareSum(t.Context(), "EFI/BOOT/BOOTIA32.EFI"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FirmwareSum of none = %v, want %v", err, fs.ErrNotExist)
	}
	if err := v.installBytes("EFI/BOOT/BOOTIA32.EFI", versions[0]); err != nil {
		t.Fatal(err)
	}
	want["EFI/BOOT/BOOTIA32.EFI"] = string(versions[0])
	if diff := cmp.Diff(want, files(t, v)); diff != "" {
		t.Error(diff)
	}
}

func TestInstallFirmwareTwiceWritesNothing(t *testing.T) {
	v := volume(t, pattern(9000, 1))
	v.fault = func(point string) error { return errors.New("it came as far as: " + point) }
	if err := v.installBytes(loader, pattern(9000, 1)); err != nil {
		t.Errorf("InstallFirmware of what is there = %v, want nil", err)
	}
}

func TestInstallFirmwareRefuses(t *testing.T) {
	v := volume(t, pattern(9000, 1))
	want := files(t, v)
	for name, words := range map[string]string{
		"EFI/eos/a.efi": "slots and boot state", "EFI/EOS/bootstate": "slots and boot state", "efi/eos": "slots and boot state",
		"/EFI/BOOT/BOOTX64.EFI": "relative", "EFI/../X.EFI": "relative", "": "relative", ".": "relative", "EFI//X": "relative", "../X": "relative",
		"EFI/BOOT/GRUBX64-LONG.EFI": "eight letters", "EFI/BOOT/BOOTX64.OLD": "this name", "EFI/BOOT/bootx64.new": "this name",
		"EFI/NONE/BOOTX64.EFI": "no folder EFI/NONE", "EFI/eos /X": "eight letters", "EFI/eos./X": "eight letters",
	} {
		err := v.installBytes(name, pattern(100, 2))
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("InstallFirmware(%q) = %v, want an error with %q", name, err, words)
		}
	}
	if err := v.installBytes(loader, nil); err == nil {
		t.Error("InstallFirmware of nothing = nil, want an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.InstallFirmware(ctx, loader, bytes.NewReader([]byte("abc")), 3); !errors.Is(err, context.Canceled) {
		t.Errorf("InstallFirmware(cancelled) = %v, want %v", err, context.Canceled)
	}
	if err := v.room(1<<60, 1); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("room for an endless loader = %v, want %v", err, unix.ENOSPC)
	}
	if diff := cmp.Diff(want, files(t, v)); diff != "" {
		t.Errorf("what was refused has changed the volume:\n%s", diff)
	}
}

// A cut before each step: the loader is whole, nothing else has changed, and running it
// again completes.
func TestInstallFirmwareCut(t *testing.T) {
	first, old, new := pattern(30_000, 1), pattern(31_000, 2), pattern(41_000, 6)
	power := errors.New("power is off")
	var points []string
	for n := 1; ; n++ {
		v := volume(t, first)
		if err := v.installBytes(loader, old); err != nil {
			t.Fatal(err)
		}
		before := files(t, v)
		count := 0
		v.fault = func(point string) error {
			if count++; count < n {
				return nil
			}
			points = append(points, point)
			return fmt.Errorf("%w: %s", power, point)
		}
		err := v.installBytes(loader, new)
		v.fault = nil
		if count < n {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, power) {
			t.Fatalf("cut %d = %v, want %v", n, err, power)
		}
		after := files(t, v)
		delete(after, fresh)
		if b, ok := after[previous]; ok && b != string(first) {
			t.Errorf("cut at %q leaves %s with %d bytes, want it whole or away", points[n-1], previous, len(b))
		}
		want := maps.Clone(before)
		delete(want, previous)
		delete(after, previous)
		if diff := cmp.Diff(want, after); diff != "" {
			t.Errorf("cut at %q:\n%s", points[n-1], diff)
		}
		if err := v.installBytes(loader, new); err != nil {
			t.Fatalf("after the cut at %q: %v", points[n-1], err)
		}
		want[loader], want[previous] = string(new), string(old)
		if diff := cmp.Diff(want, files(t, v)); diff != "" {
			t.Errorf("completed after the cut at %q:\n%s", points[n-1], diff)
		}
	}
	if want := []string{"write", "sync", "read back", "switch"}; !slices.Equal(points, want) {
		t.Errorf("cut at %q, want %q", points, want)
	}
}

// What the medium does not give back as it was written never becomes live.
func TestInstallFirmwareReadsBack(t *testing.T) {
	old := pattern(30_000, 1)
	v := volume(t, old)
	v.fault = func(point string) error {
		if point != "read back" {
			return nil
		}
		b := pattern(30_000, 2)
		b[29_000] ^= 4
		return os.WriteFile(v.Path(fresh), b, 0o600)
	}
	if err := v.installBytes(loader, pattern(30_000, 2)); err == nil || !strings.Contains(err.Error(), "read back") {
		t.Errorf("InstallFirmware on a bad medium = %v, want an error about reading back", err)
	}
	if got := files(t, v)[loader]; got != string(old) {
		t.Error("the loader has changed")
	}
}
