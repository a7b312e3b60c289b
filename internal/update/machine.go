package update

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/slotimage"
)

// Machine is the device as an update sees it: everything that touches hardware,
// the kernel or the service manager. [System] is the real one; tests use files.
type Machine interface {
	// Device describes the boot.
	Device() (*device.Device, error)
	// ESP opens the EFI system partition for as short as possible.
	ESP(write bool) (*esp.Volume, error)
	// OpenSlot opens a slot; only the one that does not run can be written.
	OpenSlot(s device.Slot, write bool) (Block, error)
	// Kernel opens the kernel image inside the slot's file system, every block
	// of which is checked against m's root hash when it is read.
	Kernel(ctx context.Context, s device.Slot, m *slotimage.Manifest) (Kernel, error)
	// Firmware is what the running image has for the EFI system partition, under the
	// same names. Every block of it is checked against the image's root hash when it is
	// read.
	Firmware() fs.FS
	// LoadKernel makes u the kernel that Jump starts; UnloadKernel undoes it.
	LoadKernel(u *kexec.UKI, cmdline string) error
	UnloadKernel() error
	// KeepContainers copies what containers use of the running image to where they find it
	// when another one runs. note is told what takes the time.
	KeepContainers(ctx context.Context, note func(line string)) error
	// Jump stops the services cleanly and starts the loaded kernel.
	Jump(ctx context.Context) error
	// Reboot restarts through the firmware, cleanly or, with force, at once.
	Reboot(ctx context.Context, force bool) error
	// Failures lists units that failed and jobs that hang.
	Failures(ctx context.Context) []string
	// BootID changes with every start of a kernel.
	BootID() string
	// Now is the clock, which may be wrong on a device without a battery.
	Now() time.Time
}

// Block is an opened slot.
type Block interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	// Sync writes everything to the medium.
	Sync() error
	// DropCache makes the next reads come from the medium.
	DropCache() error
	Close() error
}

// Kernel is a kernel image that is read from a slot.
type Kernel interface {
	io.ReaderAt
	Size() int64
	Close() error
}
