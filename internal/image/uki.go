package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/initramfs"
	"github.com/OSInside/eos/internal/toolstree"
)

// stub is where the tools tree keeps the program at the front of a unified
// kernel image.
const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// commandLine returns the kernel command line of the unified kernel image. The
// slot and the disk are not in it, they come from the slot's addon on the ESP:
// the same image goes to either slot.
func commandLine(s *imagespec.Spec) string {
	words := []string{
		"ro",
		"panic=10", // a kernel that gave up restarts, so that the fall-back happens
		// A watchdog that was started stays on: nobody but a live system may feed it.
		"i6300esb.nowayout=1", "iTCO_wdt.nowayout=1",
		"gpt",                // while the partition table is written, only its copy may be whole; the kernel looks there if told to
		"systemd.gpt_auto=0", // eos-init knows the disk
		fmt.Sprintf("eos.watchdog=%d", s.Boot.Watchdog.Seconds()),
	}
	if s.Kernel.CommandLine != "" {
		words = append(words, s.Kernel.CommandLine)
	}
	return strings.Join(words, " ")
}

// A kernel is what a unified kernel image is made of.
type kernel struct {
	version     string
	image       []byte // /boot/vmlinuz-VERSION
	commandLine string
	release     []byte // os-release
	init        []byte // eos-init
	modules     treeFS
	keys        []initramfs.Key
	buildID     string
	epoch       time.Time
}

// build makes the unified kernel image in dir, or takes it from the cache.
func (k *kernel) build(ctx context.Context, tools *toolstree.Tree, cache, dir string) (string, *ukiReport, error) {
	report := &ukiReport{}
	initrd := filepath.Join(dir, "initrd")
	f, err := os.Create(initrd)
	if err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	defer f.Close()
	built, err := initramfs.Build(f, initramfs.Config{
		Init: k.init, Tree: k.modules, KernelVersion: k.version,
		Keys: k.keys, BuildID: k.buildID, Epoch: k.epoch.Unix(),
	})
	if err != nil {
		return "", nil, err
	}
	size, err := f.Seek(0, 1)
	if err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	report.InitramfsBytes, report.Modules = size, built.Modules

	sum, err := hashFile(initrd)
	if err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	stubSum, err := hashFile(tools.Path(stub))
	if err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	out := filepath.Join(cache, "uki-"+keyOf("uki 1", sum, stubSum, k.commandLine, string(k.release), k.version,
		string(k.image), k.epoch.Unix())[:16]+".efi")
	if _, err := os.Stat(out); err == nil {
		return out, report, nil
	}
	for name, data := range map[string][]byte{
		"vmlinuz": k.image, "cmdline": []byte(k.commandLine), "os-release": k.release,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", nil, fmt.Errorf("make kernel image: %w", err)
		}
	}
	tmp := filepath.Join(dir, "uki.efi")
	cmd := tools.Command("ukify", "build", "--linux=vmlinuz", "--initrd=initrd",
		"--cmdline=@cmdline", "--os-release=@os-release", "--uname="+k.version,
		"--efi-arch=x64", "--stub="+stub, "--output="+tmp)
	cmd.Dir, cmd.Env = dir, epochEnv(k.epoch)
	if err := command.Run(ctx, cmd); err != nil {
		return "", nil, fmt.Errorf("make kernel image: %w", err)
	}
	return out, report, moveFile(tmp, out)
}

type ukiReport struct {
	InitramfsBytes int64
	Modules        []string
}

// epochEnv is the environment that keeps the clock out of files.
func epochEnv(epoch time.Time) []string {
	return []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(epoch.Unix(), 10)}
}

// addon makes the file that tells a kernel image which slot it was started
// from. It stays on the ESP and never changes.
func addon(ctx context.Context, tools *toolstree.Tree, slot, diskGUID string, epoch time.Time, out string) error {
	cmd := tools.Command("ukify", "build", "--cmdline=eos.slot="+slot+" eos.disk="+diskGUID,
		"--efi-arch=x64", "--stub=/usr/lib/systemd/boot/efi/addonx64.efi.stub", "--output="+out)
	cmd.Env = epochEnv(epoch)
	if err := command.Run(ctx, cmd); err != nil {
		return fmt.Errorf("make addon of slot %s: %w", slot, err)
	}
	return nil
}
