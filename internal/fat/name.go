package fat

import (
	"fmt"
	"strings"
)

// name returns the short name in a folder's slot.
func name(s []byte) string {
	b := []byte(strings.TrimRight(string(s[:8]), " "))
	if len(b) > 0 && b[0] == 0x05 {
		b[0] = 0xe5 // the real one would be a free slot
	}
	if ext := strings.TrimRight(string(s[8:11]), " "); ext != "" {
		return string(b) + "." + ext
	}
	return string(b)
}

// Short returns the short form of a file's name, as it is in a folder. A name
// that has none, being too long or with other signs in it, is refused.
func Short(name string) ([11]byte, error) {
	var out [11]byte
	base, ext, dot := strings.Cut(strings.ToUpper(name), ".")
	const signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-~"
	if base == "" || len(base) > 8 || len(ext) > 3 || dot && ext == "" || strings.Trim(base+ext, signs) != "" {
		return out, fmt.Errorf("%q is no name of eight letters, a dot and three letters", name)
	}
	copy(out[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return out, nil
}
