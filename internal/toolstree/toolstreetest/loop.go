package toolstreetest

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Loop makes a block device of a file, with sectors of so many bytes (0: 512). Nobody has it open
// when it is returned, so that who opens it may have it alone; detach ends it. Without loop devices it is [Missing].
func Loop(t testing.TB, path string, sectorSize uint32) (device string, detach func()) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		Missing(t, err)
	}
	defer control.Close()
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			Missing(t, err)
		}
		device = fmt.Sprintf("/dev/loop%d", n)
		if err = configure(device, back, sectorSize); err == nil {
			break
		}
		// Whoever asked at the same time was told of the same one.
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			Missing(t, fmt.Errorf("make %s: %w", device, err))
		}
	}
	return device, func() {
		t.Helper()
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0), f.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func configure(device string, back *os.File, sectorSize uint32) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlLoopConfigure(int(f.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd()), Size: sectorSize}), f.Close())
}
