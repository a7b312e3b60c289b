package kexec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err         error
		unsupported bool
		want        string
	}{
		{unix.ENOSYS, true, "without kexec_file_load"},
		{unix.EPERM, true, "kexec is not available"},
		{unix.ENOEXEC, false, "image format"},
		{unix.EKEYREJECTED, false, "signature"},
		{unix.ENOMEM, false, "cannot allocate memory"},
	} {
		got := explain(c.err)
		var u *UnsupportedError
		if errors.As(got, &u) != c.unsupported || !strings.Contains(got.Error(), c.want) {
			t.Errorf("explain(%v) = %v, want unsupported %v and %q", c.err, got, c.unsupported, c.want)
		}
	}
}

func TestDenied(t *testing.T) {
	for _, c := range []struct{ disabled, lockdown, want string }{
		{"1\n", "[none] integrity confidentiality\n", "kexec_load_disabled is 1"},
		{"0\n", "none [integrity] confidentiality\n", "locked down (integrity)"},
		{"0\n", "[none] integrity confidentiality\n", "needs root"},
		{"", "", "needs root"},
	} {
		got := denied(func(path string) ([]byte, error) {
			s := c.lockdown
			if strings.HasSuffix(path, "kexec_load_disabled") {
				s = c.disabled
			}
			if s == "" {
				return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
			}
			return []byte(s), nil
		})
		if !strings.Contains(got, c.want) {
			t.Errorf("denied(%q, %q) = %q, want %q", c.disabled, c.lockdown, got, c.want)
		}
	}
}

func TestMemfile(t *testing.T) {
	s := io.NewSectionReader(strings.NewReader("0123456789"), 2, 5)
	for range 2 { // a second load reads from the start again
		f, err := memfile("x", s)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		n, _ := f.ReadAt(b, 0)
		if string(b[:n]) != "23456" {
			t.Errorf("memfile = %q, want %q", b[:n], "23456")
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("sealed memory file can be written")
		}
		f.Close()
	}
	if _, err := memfile("short", io.NewSectionReader(strings.NewReader("abc"), 0, 9)); err == nil {
		t.Error("memfile of a section that is cut short = nil error")
	}
}
