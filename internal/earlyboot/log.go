package earlyboot

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Levels of the kernel log.
const (
	levelCrit    = 2 // shown on the console also with "quiet"
	levelWarning = 4
	levelNotice  = 5
	levelInfo    = 6
)

// kernelLog writes lines to the kernel log, and to the console as long as there
// is none.
type kernelLog struct {
	kmsg    io.Writer // nil until /dev is mounted
	console io.Writer
}

func openLog() *kernelLog {
	l := &kernelLog{console: os.Stderr}
	l.reopen()
	return l
}

// reopen goes over to the kernel log if it can be opened now.
func (l *kernelLog) reopen() {
	if l.kmsg != nil {
		return
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		l.kmsg = f
	}
}

// maxLine is what is left of a record of the kernel log, 1024 bytes with its
// head, with something to spare.
const maxLine = 900

func (l *kernelLog) printf(level int, format string, args ...any) {
	line := oneLine(fmt.Sprintf(format, args...))
	if l.kmsg != nil {
		if _, err := fmt.Fprintf(l.kmsg, "<%d>eos-init: %s\n", level, line); err == nil {
			return
		}
	}
	fmt.Fprintf(l.console, "eos-init: %s\n", line)
}

// oneLine keeps a message within one record: without line breaks and other
// control characters, and not longer than the kernel takes.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "..."
	}
	return s
}

// sinceKernelStart is the time since the kernel started its clocks, which is
// just after the boot loader left.
func sinceKernelStart() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
