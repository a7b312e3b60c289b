package update

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// LimitMemory makes the garbage collector work early, so that the program stays
// below 64 MiB of resident memory whatever the size of an image: an update must
// not push aside what the device is for. It is for the whole process.
func LimitMemory() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(40 << 20)
}

// peakMemory is the largest resident memory this process has had, 0 where the
// kernel does not say.
func peakMemory() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}
