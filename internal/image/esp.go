package image

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/grub"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/toolstree"
)

// buildESP makes the EFI system partition out of size bytes from files, whose
// keys are paths on it. Equal input gives equal bytes.
func buildESP(ctx context.Context, tools *toolstree.Tree, out string, size int64, buildID string, epoch time.Time, dirs []string, files map[string]string) error {
	fail := func(err error) error { return fmt.Errorf("make EFI system partition: %w", err) }
	id, err := hex.DecodeString(buildID[:8])
	if err != nil {
		return fail(err)
	}
	f, err := os.Create(out)
	if err != nil {
		return fail(err)
	}
	if err := f.Truncate(size); err != nil {
		return fail(err)
	}
	if err := f.Close(); err != nil {
		return fail(err)
	}
	run := func(argv ...string) error {
		cmd := tools.Command(argv...)
		cmd.Env = epochEnv(epoch)
		return command.Run(ctx, cmd)
	}
	if err := run("mkfs.vfat", "--invariant", "-F", "32", "-n", "EOS-ESP",
		"-i", fmt.Sprintf("%08x", binary.BigEndian.Uint32(id)), out); err != nil {
		return fail(err)
	}
	mmd := []string{"mmd", "-i", out}
	for _, d := range dirs {
		mmd = append(mmd, "::/"+d)
	}
	if err := run(mmd...); err != nil {
		return fail(err)
	}
	var names []string
	var total int64
	for name, src := range files {
		names = append(names, name)
		fi, err := os.Stat(src)
		if err != nil {
			return fail(err)
		}
		total += fi.Size()
		if err := os.Chtimes(src, epoch, epoch); err != nil {
			return fail(err)
		}
	}
	// `os-update --firmware` writes a boot loader beside the one that runs.
	if loader, err := os.Stat(files[grub.Program]); err == nil {
		total += loader.Size()
	}
	if total > size-size/16 {
		return fail(fmt.Errorf("its files, with room for later kernel images in both slots and another boot loader, need %d MiB, it has %d MiB (disk.esp of the image description)", total>>20, size>>20))
	}
	slices.Sort(names)
	for _, name := range names {
		if err := run("mcopy", "-m", "-i", out, files[name], "::/"+name); err != nil {
			return fail(err)
		}
	}
	return nil
}

// espDirs are the folders on the ESP, parents first.
var espDirs = []string{"EFI", "EFI/BOOT", "EFI/eos", "EFI/eos/a.efi.extra.d", "EFI/eos/b.efi.extra.d"}

// espFiles makes the files of a new device's ESP in dir: slot A was committed
// at the factory, slot B is empty. All files that the device will ever write are
// there, with room: package esp says why.
func espFiles(ctx context.Context, tools *toolstree.Tree, dir, loader, uki, diskGUID string, image slot.Image, slots int, policy string, epoch time.Time) (map[string]string, error) {
	files := map[string]string{grub.Program: loader}
	own := filepath.Join(dir, "a.efi")
	if err := copyFile(uki, own); err != nil {
		return nil, err
	}
	fi, err := os.Stat(own)
	if err != nil {
		return nil, err
	}
	space := esp.KernelSpace(fi.Size())
	if err := os.Truncate(own, space); err != nil {
		return nil, err
	}
	files["EFI/eos/a.efi"] = own
	hexSum, err := hashFile(own)
	if err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(hexSum)
	if err != nil {
		return nil, err
	}
	record := slot.Record{Seq: 1, ProvenA: &image}
	half, off, err := slot.MarshalRecord(record)
	if err != nil {
		return nil, err
	}
	recordFile := make([]byte, slot.RecordSize)
	copy(recordFile[off:], half)
	small := map[string][]byte{
		"EFI/eos/a.sum":  esp.KernelSum(bootstate.A, sum),
		"EFI/eos/record": recordFile,
	}
	if slots > 1 {
		other := filepath.Join(dir, "b.efi")
		if err := os.WriteFile(other, nil, 0o644); err != nil {
			return nil, err
		}
		if err := os.Truncate(other, space); err != nil {
			return nil, err
		}
		files["EFI/eos/b.efi"] = other
		small["EFI/eos/b.sum"] = esp.NoKernel(bootstate.B)
	}
	if policy != imagespec.PolicyOff {
		small[esp.RegistryNote] = make([]byte, esp.RegistryNoteSize)
		small[esp.RegistryHead] = make([]byte, esp.RegistryHeadSize)
	}
	if policy == imagespec.PolicyKeyfile {
		small[esp.RegistryKey] = make([]byte, esp.RegistryKeySize)
	}
	for _, name := range bootstate.Files {
		small["EFI/eos/"+name] = bootstate.Factory().Marshal()
	}
	for name, data := range small {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, err
		}
		files[name] = path
	}
	for _, x := range []string{"a", "b"}[:slots] {
		path := filepath.Join(dir, x+".addon.efi")
		if err := addon(ctx, tools, x, diskGUID, epoch, path); err != nil {
			return nil, err
		}
		files["EFI/eos/"+x+".efi.extra.d/slot.addon.efi"] = path
	}
	return files, nil
}
