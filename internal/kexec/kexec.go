// Package kexec starts a kernel out of a unified kernel image (UKI) without
// going through the firmware.
//
// The two calls most callers need are [Parse], which finds kernel, initramfs
// and command line in the PE sections of a UKI, and [Load], which hands them to
// kexec_file_load(2). [CommandLine] is the pure rewrite of the command line.
// Jumping into the loaded kernel is systemd's job (`systemctl kexec` stops
// services first and keeps the hardware watchdog armed), so this package never
// does it.
//
// A UKI is outside input: a malformed one is an error, never a panic, and
// nothing of it is held in memory beyond a copy buffer. A kernel that cannot do
// kexec (not built in, locked down, switched off) is an [*UnsupportedError].
// Loading changes nothing on disk; [Unload] undoes it.
package kexec

import (
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits keep a damaged or hostile image from making us copy without end.
const (
	maxKernel  = 256 << 20
	maxInitrd  = 512 << 20
	maxCmdline = 4096
	// maxCommandLine is what x86 and arm64 kernels accept (COMMAND_LINE_SIZE
	// 2048 with the terminating zero).
	maxCommandLine = 2047
)

// UKI is the content of a unified kernel image that a kexec needs. The readers
// read from the ReaderAt given to [Parse].
type UKI struct {
	Linux   *io.SectionReader
	Initrd  *io.SectionReader
	Cmdline string // the .cmdline section, white space and zeros trimmed; may be empty
}

// Parse finds the sections .linux, .initrd and .cmdline of a unified kernel
// image of size bytes. A section that is missing, doubled, empty or reaches past
// the end is an error.
func Parse(r io.ReaderAt, size int64) (u *UKI, err error) {
	f, err := pe.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, fmt.Errorf("parse kernel image: %w", err)
	}
	found := map[string]*io.SectionReader{}
	for _, s := range f.Sections {
		var limit int64
		switch s.Name {
		case ".linux":
			limit = maxKernel
		case ".initrd":
			limit = maxInitrd
		case ".cmdline":
			limit = maxCmdline
		default:
			continue
		}
		if found[s.Name] != nil {
			return nil, fmt.Errorf("parse kernel image: section %s is there twice", s.Name)
		}
		// The virtual size is the exact length; the size in the file is
		// rounded up to the file alignment.
		n := int64(s.VirtualSize)
		if n == 0 || n > int64(s.Size) {
			n = int64(s.Size)
		}
		off := int64(s.Offset)
		if n > limit {
			return nil, fmt.Errorf("parse kernel image: section %s has %d bytes, more than %d", s.Name, n, limit)
		}
		if off > size || n > size-off {
			return nil, fmt.Errorf("parse kernel image: section %s (%d bytes at %d) ends after the file's %d bytes", s.Name, n, off, size)
		}
		found[s.Name] = io.NewSectionReader(r, off, n)
	}
	for _, name := range []string{".linux", ".initrd"} {
		if found[name] == nil || found[name].Size() == 0 {
			return nil, fmt.Errorf("parse kernel image: no section %s", name)
		}
	}
	u = &UKI{Linux: found[".linux"], Initrd: found[".initrd"]}
	if s := found[".cmdline"]; s != nil {
		b, err := io.ReadAll(s)
		if err != nil {
			return nil, fmt.Errorf("read kernel image: section .cmdline: %w", err)
		}
		u.Cmdline = strings.Trim(string(b), " \t\r\n\x00")
	}
	return u, nil
}

// Words splits a kernel command line as the kernel does: at white space outside
// double quotes.
func Words(line string) []string {
	return strings.FieldsFunc(line, splitter())
}

func splitter() func(rune) bool {
	quoted := false
	return func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r')
	}
}

// CommandLine returns base with words set: every word of base that says
// something about the same name is dropped first, so that an image's own
// command line can never decide which slot runs or that a run is a trial.
// Names that end the argument list (`--`, after which words go to init) stay at
// the end.
func CommandLine(base string, words ...string) (string, error) {
	drop := map[string]bool{}
	for _, w := range words {
		if w == "" || strings.ContainsAny(w, " \t\r\n\"") {
			return "", fmt.Errorf("rewrite command line: %q is not one plain word", w)
		}
		drop[name(w)] = true
	}
	kept := make([]string, 0, 16)
	var tail []string
	all := Words(base)
	for i, w := range all {
		if w == "--" {
			tail = all[i:]
			break
		}
		if !drop[name(w)] {
			kept = append(kept, w)
		}
	}
	line := strings.Join(append(append(kept, words...), tail...), " ")
	for i := range len(line) {
		if line[i] < 0x20 && line[i] != '\t' && line[i] != '\n' && line[i] != '\r' || line[i] == 0x7f {
			return "", fmt.Errorf("rewrite command line: control character 0x%02x", line[i])
		}
	}
	if strings.Count(line, `"`)%2 != 0 {
		return "", errors.New("rewrite command line: a quote is not closed")
	}
	if len(line) > maxCommandLine {
		return "", fmt.Errorf("rewrite command line: %d bytes, the kernel takes %d", len(line), maxCommandLine)
	}
	return line, nil
}

// name is the part of a word that tells which setting it is.
func name(word string) string {
	n, _, _ := strings.Cut(word, "=")
	return n
}
