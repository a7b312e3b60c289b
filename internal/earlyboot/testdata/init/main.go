// Init is the /sbin/init of the tests' slots: it says what it finds on the
// console and powers off, or hangs if the command line says so.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	say("reached, as process %d, %q", os.Getpid(), os.Args)
	cmdline, err := os.ReadFile("/proc/cmdline")
	say("proc %v", err)
	show("/run/eos/boot.json")
	show("/sys/class/watchdog/watchdog0/state")
	show("/sys/class/watchdog/watchdog0/timeout")
	show("/sys/class/watchdog/watchdog0/nowayout")
	show("/proc/sys/kernel/panic")
	_, err = os.Stat("/sys/module/sha256_ssse3")
	say("fast hash %v", err)
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		say("mount %s", strings.TrimSpace(line))
	}
	err = os.WriteFile("/made", nil, 0o644)
	say("write below / %v", err)
	err = os.WriteFile("/run/made", nil, 0o644)
	say("write below /run %v", err)
	_, err = os.Stat("/dev/mapper/eos-root")
	say("mapper %v", err)
	say("data %s", hash("/data"))
	if strings.Contains(string(cmdline), "test.hang") {
		say("hanging")
		for {
			time.Sleep(time.Hour)
		}
	}
	say("done")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func hash(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if errors.Is(err, unix.EIO) {
		return "I/O error"
	}
	return fmt.Sprintf("%d bytes %x %v", n, h.Sum(nil), err)
}

func show(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		say("%v", err)
		return
	}
	say("%s = %s", file, strings.Join(strings.Fields(string(b)), " "))
}

func say(format string, args ...any) { fmt.Printf("test-init: "+format+"\n", args...) }
