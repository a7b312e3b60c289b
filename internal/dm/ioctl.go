package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of struct dm_ioctl and struct dm_target_spec, from the kernel's
// include/uapi/linux/dm-ioctl.h. Numbers are in the byte order of the machine.
const (
	nameLen    = 128 // DM_NAME_LEN
	uuidLen    = 129 // DM_UUID_LEN
	typeLen    = 16  // DM_MAX_TYPE_NAME
	headerSize = 312 // sizeof(struct dm_ioctl)
	specSize   = 40  // sizeof(struct dm_target_spec)

	offVersion     = 0
	offDataSize    = 12
	offDataStart   = 16
	offTargetCount = 20
	offFlags       = 28
	offDev         = 40
	offName        = 48
	offUUID        = offName + nameLen

	flagReadonly = 1 << 0 // DM_READONLY_FLAG

	cmdDevCreate  = 3
	cmdDevRemove  = 4
	cmdDevSuspend = 6 // without the suspend flag: resume
	cmdTableLoad  = 9
)

// ControlPath is the device that takes the ioctls.
const ControlPath = "/dev/mapper/control"

// request encodes what an ioctl is given: the header, and for a table load the
// target behind it.
func request(name, uuid string, flags uint32, t *Target) ([]byte, error) {
	// The last byte of each field is a zero.
	if name == "" || len(name) >= nameLen || bytes.ContainsAny([]byte(name), "/\x00") {
		return nil, fmt.Errorf("device name %q", name)
	}
	if len(uuid) >= uuidLen || bytes.ContainsRune([]byte(uuid), 0) {
		return nil, fmt.Errorf("device uuid %q", uuid)
	}
	size := headerSize
	if t != nil {
		if t.Type == "" || len(t.Type) >= typeLen || bytes.ContainsRune([]byte(t.Type+t.Params), 0) {
			return nil, fmt.Errorf("target %q with parameters %q", t.Type, t.Params)
		}
		size += specSize + align8(len(t.Params)+1)
	}
	b := make([]byte, size)
	order := binary.NativeEndian
	// Version 4.0.0 is the oldest interface with this layout.
	order.PutUint32(b[offVersion:], 4)
	order.PutUint32(b[offDataSize:], uint32(size))
	order.PutUint32(b[offDataStart:], headerSize)
	order.PutUint32(b[offFlags:], flags)
	copy(b[offName:], name)
	copy(b[offUUID:], uuid)
	if t != nil {
		order.PutUint32(b[offTargetCount:], 1)
		spec := b[headerSize:]
		order.PutUint64(spec[0:], 0)
		order.PutUint64(spec[8:], t.Sectors)
		// 16: status, written by the kernel only.
		order.PutUint32(spec[20:], uint32(size-headerSize))
		copy(spec[24:], t.Type)
		copy(spec[specSize:], t.Params)
	}
	return b, nil
}

func align8(n int) int { return (n + 7) &^ 7 }

// ioctlNumber is _IOWR(DM_IOCTL, cmd, struct dm_ioctl).
func ioctlNumber(cmd uintptr) uintptr {
	return 3<<30 | headerSize<<16 | 0xfd<<8 | cmd
}

// device takes the kernel's number of the device out of an answer. It is in
// the form of the kernel's new_encode_dev.
func device(answer []byte) (major, minor uint32) {
	dev := binary.NativeEndian.Uint64(answer[offDev:])
	return uint32((dev & 0xfff00) >> 8), uint32((dev & 0xff) | ((dev >> 12) & 0xfff00))
}

// Device is a device that was made.
type Device struct {
	Name         string
	Major, Minor uint32
}

// Node returns the path the kernel's own device file system gives it.
func (d Device) Node() string { return fmt.Sprintf("/dev/dm-%d", d.Minor) }

// Create makes a read-only device with one target and starts it. The uuid may
// be empty. A device of the same name is an error.
func Create(name, uuid string, t Target) (*Device, error) {
	control, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("create device %s: %w", name, err)
	}
	defer control.Close()
	return create(func(cmd uintptr, b []byte) error { return ioctl(control, cmd, b) }, name, uuid, t)
}

func create(ioctl func(cmd uintptr, b []byte) error, name, uuid string, t Target) (_ *Device, err error) {
	b, err := request(name, uuid, flagReadonly, nil)
	if err != nil {
		return nil, fmt.Errorf("create device %s: %w", name, err)
	}
	load, err := request(name, "", flagReadonly, &t)
	if err != nil {
		return nil, fmt.Errorf("create device %s: %w", name, err)
	}
	if err := ioctl(cmdDevCreate, b); err != nil {
		return nil, fmt.Errorf("create device %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(ioctl, name))
		}
	}()
	if err := ioctl(cmdTableLoad, load); err != nil {
		return nil, fmt.Errorf("load table %s (0 %d %s %s): %w", name, t.Sectors, t.Type, t.Params, err)
	}
	if b, err = request(name, "", 0, nil); err != nil {
		return nil, err
	}
	if err := ioctl(cmdDevSuspend, b); err != nil {
		return nil, fmt.Errorf("start device %s: %w", name, err)
	}
	d := &Device{Name: name}
	d.Major, d.Minor = device(b)
	return d, nil
}

// Remove removes a device that nobody has open.
func Remove(name string) error {
	control, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	defer control.Close()
	return remove(func(cmd uintptr, b []byte) error { return ioctl(control, cmd, b) }, name)
}

func remove(ioctl func(cmd uintptr, b []byte) error, name string) error {
	b, err := request(name, "", 0, nil)
	if err == nil {
		err = ioctl(cmdDevRemove, b)
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

func ioctl(control *os.File, cmd uintptr, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), ioctlNumber(cmd), uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
