package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/OSInside/eos/internal/gpt"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/registry/head"
)

// Partition is the name of the registry's partition.
const Partition = "p.spare"

// growPartition makes the built-in registry's partition as large as the disk allows, and gives it
// the machine's id as its GUID, if that is given and the GUID is still the builder's: the id is then
// known before any disk is unlocked, and outlives a registry that cannot be opened. Without anything
// to do nothing is written.
func (s *System) growPartition(machineID string) (grown bool, err error) {
	disk, number, err := diskOf(s.Device.Registry)
	if err != nil || number == 0 {
		return false, fmt.Errorf("find the disk of %s: %w", s.Device.Registry, err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	guid, err := partitionGUID(f, size, machineID)
	if err != nil {
		return false, err
	}
	writes, err := gpt.Grow(f, size, gpt.Change{Name: Partition, GUID: guid})
	if err != nil {
		return false, err
	}
	for _, w := range writes {
		if _, err := f.WriteAt(w.Data, w.At); err != nil {
			return false, fmt.Errorf("write partition table of %s: %w", disk, err)
		}
		if err := f.Sync(); err != nil {
			return false, fmt.Errorf("write partition table of %s: %w", disk, err)
		}
	}
	table, err := gpt.Read(f, size)
	if err != nil {
		return false, err
	}
	p, err := table.ByName(Partition)
	if err != nil {
		return false, err
	}
	have, err := sizeOf(s.Device.Registry)
	if err != nil || have >= p.Size {
		return false, err
	}
	if err := resizeInKernel(f, number, p.Start, p.Size); err != nil {
		return false, fmt.Errorf("tell the kernel the new size of %s: %w", s.Device.Registry, err)
	}
	s.note("grew %s from %d to %d MiB, to the end of %s", s.Device.Registry, have>>20, p.Size>>20, disk)
	return true, nil
}

// partitionGUID returns the GUID that the partition is to get; empty if it keeps its own.
func partitionGUID(f io.ReaderAt, size int64, machineID string) (string, error) {
	table, err := gpt.Read(f, size)
	if err != nil {
		return "", err
	}
	p, err := table.ByName(Partition)
	if err != nil {
		return "", err
	}
	m := machineID
	if head.MachineID(p.GUID) != "" || len(m) != 32 {
		return "", nil
	}
	guid := strings.Join([]string{m[:8], m[8:12], m[12:16], m[16:20], m[20:]}, "-")
	if head.MachineID(guid) == "" {
		return "", nil // an id that is no random one cannot be told from the builder's
	}
	return guid, nil
}

// resizeInKernel changes what the kernel thinks of one partition while others of the disk are in
// use: struct blkpg_ioctl_arg and blkpg_partition of the kernel's include/uapi/linux/blkpg.h.
func resizeInKernel(disk *os.File, number int, start, size int64) error {
	const blkpg, resize = 0x1269, 3
	p := struct {
		start, length int64
		number        int32
		names         [128]byte
	}{start: start, length: size, number: int32(number)}
	arg := struct {
		op, flags, size int32
		data            unsafe.Pointer
	}{op: resize, size: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), blkpg, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(&p)
	if errno != 0 {
		return errno
	}
	return nil
}

// growContent grows what is on the partition, while it is in use: the mapping, then the file
// system.
func (s *System) growContent(ctx context.Context, mapped bool) error {
	if mapped {
		if err := s.resizeMapping(ctx); err != nil {
			return err
		}
	}
	if _, err := output(ctx, "xfs_growfs", "-d", builtinRoot); err != nil {
		return fmt.Errorf("grow file system of the registry: %w", err)
	}
	return nil
}

// resizeMapping gives the mapping the size of its partition. The kernel keeps the key where we
// cannot read it, so cryptsetup gets it once more.
func (s *System) resizeMapping(ctx context.Context) error {
	part, err := sizeOf(s.Device.Registry)
	if err != nil {
		return err
	}
	mapped, err := sizeOf("/dev/mapper/" + mapName)
	if err != nil {
		return err
	}
	if part-head.Size <= mapped {
		return nil
	}
	if key, err := s.espKey(); err == nil {
		defer key.Close()
		err := key.run(ctx, "cryptsetup", "resize", "--key-file", secretPath, mapName)
		if err == nil {
			return nil
		}
	}
	if _, err := output(ctx, "cryptsetup", "resize", "--token-only", mapName); err != nil {
		return fmt.Errorf("grow LUKS2 device of the registry: %w (it grows by itself at the next boot)", err)
	}
	return nil
}
