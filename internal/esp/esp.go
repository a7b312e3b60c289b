// Package esp reads and writes the EFI system partition of a running device: the
// boot state, the device record, the kernel image of each slot with its
// checksum file, and the firmware, which is the boot loader.
//
// The three calls most callers need are [Mount], which opens the partition
// privately and only for as long as the volume is open, [Volume.InstallKernel]
// and [Volume.InstallFirmware]. [Dir] treats a folder as a volume.
//
// Crash promise: the boot state and the record are overwritten in place (package
// bootstate and package slot say how a torn write is survived). A slot's kernel
// image is overwritten in place, with its checksum made invalid first and valid
// last; the boot loader starts no image whose checksum is wrong, so an image that
// was cut half way is not started.
//
// None of these files is made, renamed, shortened or, but for a kernel image that
// does not fit, made longer: the builder has made all of them, with room. FAT has
// no journal. Power that goes while a folder or a chain of clusters changes can
// leave a volume that the kernel reads but refuses to write, and then the device
// could never be updated again.
//
// A firmware file is whole at every instant, the old one or the new one: the new
// one is written beside it, read back from the medium, and put in its place by one
// write of one sector of their folder, which moves no cluster. Nothing else of
// the loader that runs is ever written, freed or renamed. docs/design/firmware.md
// has the argument.
//
// It does not decide anything about slots, and it is not safe for concurrent
// use; the lock of package update keeps writers apart.
package esp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/bootstate"
)

// Volume is an opened EFI system partition.
type Volume struct {
	dir  string
	mnt  *os.File // nil for a plain folder
	name string

	// fault, if set, is called between the steps of an installation; tests cut there.
	fault func(point string) error
}

// Dir returns the folder dir as a volume.
func Dir(dir string) *Volume { return &Volume{dir: dir, name: dir} }

// Close lets go of the partition. What was written was synced before.
func (v *Volume) Close() error {
	if v.mnt == nil {
		return nil
	}
	return v.mnt.Close()
}

// Path returns where a file of the volume is to be found; name has no leading
// slash.
func (v *Volume) Path(name string) string { return filepath.Join(v.dir, name) }

// folder is where everything of ours is. The boot loader itself is elsewhere.
const folder = "EFI/eos"

func kernelName(s bootstate.Slot) string { return folder + "/" + string(s) + ".efi" }
func sumName(s bootstate.Slot) string    { return folder + "/" + string(s) + ".sum" }

// sumLine is the line of a checksum file, in the form GRUB's hashsum and
// sha256sum read. Its length never changes, so a sum file is one sector that is
// overwritten in place.
func sumLine(s bootstate.Slot, sum []byte) string {
	return hex.EncodeToString(sum) + "  /" + kernelName(s) + "\n"
}

// KernelError says that a slot's kernel image on the EFI system partition is
// missing or is not what its checksum file says. The boot loader would not
// start it.
type KernelError struct {
	Slot bootstate.Slot
	Why  string
}

func (e *KernelError) Error() string {
	return fmt.Sprintf("check kernel image of slot %s: %s", e.Slot, e.Why)
}

// CheckKernel reads the kernel image of slot s and compares it with its checksum
// file, as the boot loader does.
func (v *Volume) CheckKernel(s bootstate.Slot) error {
	want, err := v.readSum(s)
	if err != nil {
		return err
	}
	got, _, err := v.hashKernel(s)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return &KernelError{s, fmt.Sprintf("sha256 is %x, %s.sum says %x", got[:8], s, want[:8])}
	}
	return nil
}

func (v *Volume) readSum(s bootstate.Slot) ([]byte, error) {
	b, err := readSmall(v.Path(sumName(s)), 512)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &KernelError{s, "there is no checksum file " + sumName(s)}
	}
	if err != nil {
		return nil, fmt.Errorf("read checksum of slot %s: %w", s, err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	digest, file, ok := strings.Cut(line, "  ")
	sum, err := hex.DecodeString(digest)
	if !ok || err != nil || len(sum) != sha256.Size || file != "/"+kernelName(s) {
		return nil, &KernelError{s, fmt.Sprintf("%s is damaged", sumName(s))}
	}
	return sum, nil
}

// hashKernel reads a slot's kernel image from the disk.
func (v *Volume) hashKernel(s bootstate.Slot) ([]byte, int64, error) {
	sum, n, err := hashFile(context.Background(), v.Path(kernelName(s)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, &KernelError{s, "there is no " + kernelName(s)}
	}
	if err != nil {
		return nil, n, fmt.Errorf("read kernel image of slot %s: %w", s, err)
	}
	return sum, n, nil
}

// hashFile reads a file from the disk.
func hashFile(ctx context.Context, path string) ([]byte, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	forget(f)
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, &contextReader{ctx, f}, make([]byte, copyBuffer))
	return h.Sum(nil), n, err
}

const copyBuffer = 256 << 10

// readSmall reads a file that has at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}
