// Package kexectest makes small unified kernel images for tests.
package kexectest

import (
	"encoding/binary"
	"testing"
)

// UKI returns a PE file with the sections a unified kernel image has.
func UKI(t testing.TB, linux, initrd, cmdline string) []byte {
	return Sections(t, ".osrel", "ID=test", ".cmdline", cmdline, ".linux", linux, ".initrd", initrd)
}

// Sections returns a PE file with the sections given as name and content.
func Sections(t testing.TB, pairs ...string) []byte {
	t.Helper()
	const align, peOff = 512, 0x80
	n := len(pairs) / 2
	head := make([]byte, peOff+24+40*n)
	copy(head, "MZ")
	le := binary.LittleEndian
	le.PutUint32(head[0x3c:], peOff)
	copy(head[peOff:], "PE\x00\x00")
	le.PutUint16(head[peOff+4:], 0x8664)
	le.PutUint16(head[peOff+6:], uint16(n))
	out := pad(head, align)
	for i := range n {
		name, content := pairs[2*i], pairs[2*i+1]
		h := out[peOff+24+40*i:]
		copy(h, name)
		raw := pad([]byte(content), align)
		le.PutUint32(h[8:], uint32(len(content)))
		le.PutUint32(h[16:], uint32(len(raw)))
		le.PutUint32(h[20:], uint32(len(out)))
		out = append(out, raw...)
	}
	return out
}

func pad(b []byte, align int) []byte {
	return append(b, make([]byte, (align-len(b)%align)%align)...)
}
