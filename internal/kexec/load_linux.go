package kexec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// UnsupportedError says that this machine cannot start a kernel with kexec.
type UnsupportedError struct{ Why string }

func (e *UnsupportedError) Error() string { return "kexec is not available: " + e.Why }

// Load gives kernel and initramfs of u to the kernel, to be started by the next
// kexec reboot with exactly the command line given. The bytes are copied into
// sealed memory files first, so what was checked is what is loaded.
func Load(u *UKI, cmdline string) error {
	kernel, err := memfile("kernel", u.Linux)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := memfile("initrd", u.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), cmdline, 0); err != nil {
		return explain(err)
	}
	return nil
}

// Unload forgets a loaded kernel.
func Unload() error {
	if err := unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD); err != nil {
		return explain(err)
	}
	return nil
}

// explain turns the answers that mean "never on this machine" into an
// [*UnsupportedError]; anything else is a fault of the kernel image or memory.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return &UnsupportedError{Why: "the running kernel is built without kexec_file_load"}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return &UnsupportedError{Why: denied(os.ReadFile)}
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("load kernel: the running kernel does not know this kernel image format: %w", err)
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EBADMSG):
		return fmt.Errorf("load kernel: the running kernel does not accept its signature: %w", err)
	}
	return fmt.Errorf("load kernel: %w", err)
}

// denied finds out which switch refused us, because "operation not permitted"
// alone helps nobody.
func denied(read func(string) ([]byte, error)) string {
	if b, err := read("/proc/sys/kernel/kexec_load_disabled"); err == nil && strings.TrimSpace(string(b)) == "1" {
		return "kernel.kexec_load_disabled is 1"
	}
	if b, err := read("/sys/kernel/security/lockdown"); err == nil {
		if _, mode, ok := strings.Cut(string(b), "["); ok && !strings.HasPrefix(mode, "none") {
			mode, _, _ = strings.Cut(mode, "]")
			return "the running kernel is locked down (" + mode + ")"
		}
	}
	return "operation not permitted (it needs root and CAP_SYS_BOOT)"
}

// memfile copies a section into a sealed memory file.
func memfile(name string, s *io.SectionReader) (*os.File, error) {
	fd, err := unix.MemfdCreate("eos-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create memory file for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{s}, make([]byte, 256<<10)); err != nil || n != s.Size() {
		f.Close()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("copy %s to memory: %w", name, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal memory file for %s: %w", name, err)
	}
	return f, nil
}
