package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/containerkeep"
	"github.com/OSInside/eos/internal/detach"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/dm"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/registrystate"
	"github.com/OSInside/eos/internal/slotimage"
	"golang.org/x/sys/unix"
)

// KernelFile is where an image keeps its unified kernel image.
const KernelFile = "/usr/lib/eos/uki.efi"

// FirmwareDir is where an image keeps its boot loader.
const FirmwareDir = "/usr/lib/eos/firmware"

// registryConfig is there in images with a registry.
const registryConfig = "/usr/share/eos/registry.json"

// System is the device the program runs on.
type System struct {
	BootFile string // empty: [device.BootFile]
	dev      *device.Device
	restart  func() error // tests: instead of asking the kernel
}

// Device reads the boot description once.
func (s *System) Device() (*device.Device, error) {
	if s.dev != nil {
		return s.dev, nil
	}
	path := s.BootFile
	if path == "" {
		path = device.BootFile
	}
	d, err := device.Load(path)
	if err != nil {
		return nil, err
	}
	s.dev = d
	return d, nil
}

// ESP mounts the EFI system partition privately.
func (s *System) ESP(write bool) (*esp.Volume, error) {
	d, err := s.Device()
	if err != nil {
		return nil, err
	}
	return esp.Mount(d.ESP, write)
}

// block adapts device.Block to [Block].
type block struct{ *device.Block }

func (b block) Size() int64 { return b.Block.Size }

// OpenSlot opens a slot's partition.
func (s *System) OpenSlot(x device.Slot, write bool) (Block, error) {
	d, err := s.Device()
	if err != nil {
		return nil, err
	}
	if write {
		// A run that was killed may have left its mapping of this slot.
		_ = dm.Remove(mapName)
	}
	b, err := d.OpenSlot(x, write)
	if err != nil {
		return nil, err
	}
	return block{b}, nil
}

// mapName is the mapping of the slot that does not run; the lock keeps it to
// one program at a time.
const mapName = "eos-other"

// Kernel opens the slot's kernel image. The running slot's is in our own root.
// The other slot is mapped with dm-verity and mounted where nobody sees it.
func (s *System) Kernel(_ context.Context, x device.Slot, m *slotimage.Manifest) (Kernel, error) {
	d, err := s.Device()
	if err != nil {
		return nil, err
	}
	if x == d.Slot {
		return openKernel(KernelFile, nil)
	}
	path := d.Slots[x]
	if path == "" {
		return nil, &device.NoSlotError{Slot: x}
	}
	salt := [32]byte(m.Salt)
	t, err := dm.Verity{
		Data: path, Hash: path,
		DataBlocks: m.DataBlocks(), HashStart: m.TreeOffset() / slotimage.BlockSize,
		Root: m.RootHash, Salt: salt[:],
	}.Target()
	if err != nil {
		return nil, fmt.Errorf("map slot %s: %w", x, err)
	}
	_ = dm.Remove(mapName) // see OpenSlot
	dev, err := dm.Create(mapName, "", t)
	if err != nil {
		return nil, fmt.Errorf("map slot %s: %w", x, err)
	}
	release := func() error { return removeMap(mapName) }
	dir, err := detach.Mount("squashfs", true, detach.Option{Name: "source", Value: dev.Node()})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount slot %s: %w", x, err), release())
	}
	k, err := openKernel(detach.Path(dir)+KernelFile, func() error {
		return errors.Join(dir.Close(), release())
	})
	if err != nil {
		return nil, fmt.Errorf("kernel image of slot %s: %w", x, err)
	}
	return k, nil
}

// removeMap removes a mapping. The kernel lets go of the mount that was on it a
// moment after it was closed, so it is tried for a while.
func removeMap(name string) error {
	var err error
	for range 100 {
		if err = dm.Remove(name); err == nil || !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("remove mapping %s: %w", name, err)
	}
	return nil
}

// fileKernel is a kernel image in a file, and what to take down after it.
type fileKernel struct {
	*os.File
	size int64
	down func() error
}

func openKernel(path string, down func() error) (Kernel, error) {
	f, err := os.Open(path)
	if err == nil {
		var st os.FileInfo
		if st, err = f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
			return &fileKernel{f, st.Size(), down}, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is not a file with content", KernelFile)
		}
		f.Close()
	}
	if down != nil {
		err = errors.Join(err, down())
	}
	return nil, err
}

func (k *fileKernel) Size() int64 { return k.size }

func (k *fileKernel) Close() error {
	err := k.File.Close()
	if k.down != nil {
		err = errors.Join(err, k.down())
	}
	return err
}

// Firmware is in our own root, which dm-verity covers.
func (s *System) Firmware() fs.FS { return os.DirFS(FirmwareDir) }

// LoadKernel gives u to the kernel.
func (s *System) LoadKernel(u *kexec.UKI, cmdline string) error { return kexec.Load(u, cmdline) }

// UnloadKernel takes it back.
func (s *System) UnloadKernel() error { return kexec.Unload() }

// KeepContainers does nothing where the image has no containers, or the device no registry: what cannot
// be seen cannot be kept, and an update may be what mends it.
func (s *System) KeepContainers(ctx context.Context, note func(string)) error {
	if _, err := os.Stat(registryConfig); err == nil && !registrystate.Load(registrystate.File).OK {
		return nil
	}
	_, err := containerkeep.Keep(ctx, containerkeep.Options{Note: note})
	return err
}

// Jump asks the service manager to stop everything and start the loaded kernel.
// It keeps the hardware watchdog armed across the jump (KExecWatchdogSec).
//
// The service manager may stop this very program before its answer is read; if
// the system is going down, the jump is under way.
func (s *System) Jump(ctx context.Context) error {
	return goingDown(context.WithoutCancel(ctx), systemctl(context.WithoutCancel(ctx), "kexec"))
}

// Reboot restarts the machine. With force it is given a short time to stop
// services; after that the kernel is asked directly.
func (s *System) Reboot(ctx context.Context, force bool) error {
	if !force {
		ctx = context.WithoutCancel(ctx)
		return goingDown(ctx, systemctl(ctx, "reboot"))
	}
	if err := systemctl(ctx, "reboot", "--no-block"); err == nil {
		select {
		case <-ctx.Done():
			// It is our turn to be stopped, so stopping goes on: cutting it short
			// would cost data. The watchdog looks after what comes later.
			if goingDown(context.WithoutCancel(ctx), ctx.Err()) == nil {
				return nil
			}
		case <-time.After(forceAfter):
		}
	}
	if s.restart != nil {
		return s.restart()
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// forceAfter is how long a clean stop may take before the kernel restarts the
// machine whatever hangs.
const forceAfter = time.Minute

// systemctl asks the service manager. A reboot means the firmware, whatever
// kernel may be loaded.
func systemctl(ctx context.Context, args ...string) error {
	return command.Run(ctx, command.Cmd{
		Argv: append([]string{"systemctl"}, args...),
		Env:  []string{"SYSTEMCTL_SKIP_AUTO_KEXEC=1", "SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT=1"},
	})
}

// goingDown forgets err when the system is on its way down all the same.
func goingDown(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var out bytes.Buffer
	// The exit status only repeats what is written.
	_ = command.Run(ctx, command.Cmd{Argv: []string{"systemctl", "is-system-running"}, Stdout: &out})
	if strings.TrimSpace(out.String()) == "stopping" {
		return nil
	}
	return err
}

// Failures asks the service manager. It answers as well as it can: a device
// that is in trouble may not be able to say more.
func (s *System) Failures(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out []string
	failed, err := command.Output(ctx, command.Cmd{Argv: []string{"systemctl", "--failed", "--plain", "--no-legend", "--no-pager"}})
	if err != nil {
		out = append(out, err.Error())
	}
	out = append(out, firstWords(string(failed), 0, " failed")...)
	jobs, err := command.Output(ctx, command.Cmd{Argv: []string{"systemctl", "list-jobs", "--plain", "--no-legend", "--no-pager"}})
	if err != nil {
		out = append(out, err.Error())
	}
	return append(out, runningJobs(string(jobs))...)
}

// firstWords returns the word at place i of each line.
func firstWords(text string, i int, suffix string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > i {
			out = append(out, f[i]+suffix)
		}
	}
	return out
}

// runningJobs returns the jobs that something waits on: lines of
// `JOB UNIT TYPE STATE` whose state is running, without those that wait or act here.
func runningJobs(text string) []string {
	own := []string{"os-update-commit.service", "os-update-boot-failed.service"}
	var out []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 4 && f[3] == "running" && !slices.Contains(own, f[1]) {
			out = append(out, f[1]+" not finished ("+f[2]+")")
		}
	}
	return out
}

// BootID is the kernel's.
func (s *System) BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Now is the system clock.
func (s *System) Now() time.Time { return time.Now() }
