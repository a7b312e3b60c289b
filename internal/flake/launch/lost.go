package launch

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// look is how often is looked whether somebody still keeps the application.
const look = 2 * time.Second

// keeper is the process that podman has beside an application, and learns its end from. If that
// is killed, podman waits for ever.
type keeper struct {
	pid   int // of the application
	start uint64
	gone  bool // before the application
}

// lost tells whether the application has ended and nobody will ever say so.
func (k *keeper) lost(pidFile string) bool {
	if k.pid == 0 {
		if pid := readPid(pidFile); runs(pid) {
			k.pid, k.start = pid, startTime(pid)
		}
	}
	if k.pid == 0 {
		return false
	}
	if startTime(k.pid) == k.start {
		k.gone = k.gone || !kept(k.pid)
		return false
	}
	return k.gone
}

// kept tells whether the parent of a process is a keeper.
func kept(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	f := statFields(string(text))
	if err != nil || len(f) < 2 {
		return true // it has just ended
	}
	name, err := os.ReadFile(filepath.Join("/proc", f[1], "comm"))
	return err == nil && string(name) == "conmon\n"
}

// statFields are those of /proc/PID/stat behind the name of the program, which is in brackets
// and may have blanks and brackets in it.
func statFields(text string) []string {
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
}
