package earlyboot

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pseudoMounts are the kernel's own file systems, with the options that systemd
// would mount them with: it leaves alone what is there.
var pseudoMounts = []struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755,size=20%,nr_inodes=800k"},
}

func (b *Boot) mountPseudo() error {
	for _, m := range pseudoMounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	b.log.reopen()
	// The kernel lets a user program write ten lines in five seconds, unless
	// told otherwise, and drops the rest. A reason must not get lost.
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0); err != nil {
		b.log.printf(levelInfo, "kernel log stays rate limited: %v", err)
	}
	return nil
}

func (b *Boot) readCommandLine() error {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	b.line, err = ParseCommandLine(string(text)) // of use also after an error
	for _, n := range b.line.Notes {
		b.log.printf(levelWarning, "%s", n)
	}
	b.setPanicTimeout("/proc/sys/kernel/panic")
	return err
}

// setPanicTimeout makes a panic of the kernel, now or in the booted system, a
// reset too, where the command line did not set that itself (panic=).
func (b *Boot) setPanicTimeout(file string) {
	old, err := os.ReadFile(file)
	if err == nil && string(bytes.TrimSpace(old)) == "0" && b.line.Panic > 0 {
		err = os.WriteFile(file, []byte(strconv.Itoa(int(b.line.Panic.Seconds()))), 0)
	}
	if err != nil {
		b.log.printf(levelWarning, "a kernel panic will not reset the machine: %v", err)
	}
}
