package imagespec

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as 512MiB.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

var sizeUnits = []struct {
	name string
	size Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// ParseSize parses a whole number directly followed by KiB, MiB or GiB.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		digits = strings.TrimSuffix(digits, " ")
		if digits == "" || strings.Trim(digits, "0123456789") != "" {
			break
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt64/int64(u.size) {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		return Size(n) * u.size, nil
	}
	return 0, fmt.Errorf("%q is not a size; want a whole number and KiB, MiB or GiB, like 512MiB", s)
}

// String returns s in the largest unit that is exact.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 {
			return fmt.Sprintf("%d%s", int64(s/u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", int64(s))
}

// Bytes returns s as a number.
func (s Size) Bytes() int64 { return int64(s) }

func (s *Size) parseScalar(text string) (err error) {
	*s, err = ParseSize(text)
	return err
}

// Duration is a time.Duration of whole seconds, written as 180s or 3m.
type Duration time.Duration

// Seconds returns d in seconds.
func (d Duration) Seconds() int { return int(time.Duration(d) / time.Second) }

// String returns d as time.Duration prints it.
func (d Duration) String() string { return time.Duration(d).String() }

func (d *Duration) parseScalar(text string) error {
	if text == "0" {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration; want a number and s, m or h, like 180s", text)
	}
	if v < 0 || v%time.Second != 0 {
		return fmt.Errorf("%q is not a whole number of seconds from 0 up", text)
	}
	*d = Duration(v)
	return nil
}

// Mode is the permission bits of a file, written in octal.
type Mode uint32

// FileMode returns m for package os.
func (m Mode) FileMode() fs.FileMode {
	f := fs.FileMode(m & 0o777)
	if m&0o4000 != 0 {
		f |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		f |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		f |= fs.ModeSticky
	}
	return f
}

// String returns m in octal with four digits.
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

func (m *Mode) parseScalar(text string) error {
	digits := strings.TrimPrefix(text, "0o")
	if len(digits) == 5 {
		digits = strings.TrimPrefix(digits, "0") // 04755
	}
	if len(digits) < 3 || len(digits) > 4 || strings.Trim(digits, "01234567") != "" {
		return errors.New(strconv.Quote(text) + ` is not a file mode; want three or four octal digits, like "0755"`)
	}
	n, err := strconv.ParseUint(digits, 8, 32)
	if err != nil {
		return err
	}
	*m = Mode(n)
	return nil
}
