package earlyboot

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const watchdogDevice = "/dev/watchdog0"

// armWatchdog loads the watchdog's driver before any other module, starts the
// timer and leaves it running: whatever hangs from here on, ends in a reset. systemd goes on
// feeding it. A machine without watchdog boots as well.
//
// After a kexec the timer may be running from the old system. Drivers stop it when they
// probe or when the machine shuts down, unless nowayout is set, so the image's
// command line carries that as a module parameter ("i6300esb.nowayout=1").
func (b *Boot) armWatchdog() error {
	if b.line.Watchdog == 0 {
		b.log.printf(levelInfo, "watchdog left alone (eos.watchdog=0)")
		return nil
	}
	if err := b.openModules(); err != nil {
		return err
	}
	b.loadForDevices(isWatchdog)
	w, err := os.OpenFile(watchdogDevice, os.O_WRONLY, 0)
	if err != nil {
		b.log.printf(levelNotice, "no hardware watchdog: a hang will not reset the machine")
		return nil
	}
	// The file stays open up to exec and is closed by that without the
	// letter that would stop the timer.
	b.watchdog = w
	seconds, err := startWatchdog(w, int(b.line.Watchdog.Seconds()))
	if err != nil {
		b.log.printf(levelWarning, "watchdog: %v", err)
		return nil
	}
	b.log.printf(levelInfo, "watchdog armed, %d s", seconds)
	return nil
}

// startWatchdog sets the time-out and feeds the watchdog once. Opening it has
// started the timer. A driver that does not take the time-out keeps its own.
func startWatchdog(w *os.File, seconds int) (int, error) {
	fd := int(w.Fd())
	setErr := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, seconds)
	if got, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err == nil {
		seconds = got
	}
	if err := unix.IoctlSetInt(fd, unix.WDIOC_KEEPALIVE, 0); err != nil {
		return seconds, fmt.Errorf("feed %s: %w", watchdogDevice, err)
	}
	if setErr != nil {
		return seconds, fmt.Errorf("set time-out of %s: %w (it runs with its own, %d s)", watchdogDevice, setErr, seconds)
	}
	return seconds, nil
}

// feedWatchdog starts the time-out anew. An error has no cure here, and what
// it leads to, a reset, is what the watchdog is for.
func (b *Boot) feedWatchdog() {
	if b.watchdog != nil {
		_ = unix.IoctlSetInt(int(b.watchdog.Fd()), unix.WDIOC_KEEPALIVE, 0)
	}
}

// isWatchdog reports whether a module belongs to the watchdog step: the drivers, and the bridge
// drivers that make the devices which some of them drive.
func isWatchdog(name, path string) bool {
	return strings.Contains(path, "drivers/watchdog/") || name == "lpc_ich" || name == "i2c_i801"
}
