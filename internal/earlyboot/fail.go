package earlyboot

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fail says why there is no boot and resets the machine. It does not return.
func (b *Boot) fail(step string, err error) {
	b.log.reopen()
	b.log.printf(levelCrit, "%s", failure(string(b.line.Slot), step, err))
	wait := b.line.Panic
	if wait == 0 {
		b.log.printf(levelCrit, "waiting for ever (eos.panic=0)")
		b.waitForEver()
	}
	b.log.printf(levelCrit, "resetting the machine in %d s (eos.panic=)", int(wait.Seconds()))
	time.Sleep(wait)
	b.log.printf(levelCrit, "resetting the machine")
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		b.log.printf(levelCrit, "reset: %v", err)
	}
	// There is no reason known for which the call would come back; this way
	// around the drivers' reset handlers is the last one left.
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0); err != nil {
		b.log.printf(levelCrit, "reset by sysrq: %v", err)
	}
	b.waitForEver()
}

// failure is the line on the console.
func failure(slot, step string, err error) string {
	if slot == "" {
		return fmt.Sprintf("cannot boot: %s: %v", step, err)
	}
	return fmt.Sprintf("cannot boot slot %s: %s: %v", slot, step, err)
}

// waitForEver keeps the message on the screen. With eos.panic=0 somebody is
// debugging, so the watchdog is held off.
func (b *Boot) waitForEver() {
	for {
		if b.line.Panic == 0 {
			b.feedWatchdog()
		}
		time.Sleep(time.Second)
	}
}
