package launch

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// readPid reads a file that holds the id of a process; 0 if it does not.
func readPid(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// containerProcesses are the processes of a container whose first one's id is in a file. It is
// none if the container has none of its own, or has ended.
func containerProcesses(pidFile string) []int {
	pid := readPid(pidFile)
	if pid == 0 {
		return nil
	}
	space := pidNamespace(pid)
	if ours := pidNamespace(os.Getpid()); space == "" || space == ours {
		return nil
	}
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if p, err := strconv.Atoi(filepath.Base(dir)); err == nil && pidNamespace(p) == space {
			out = append(out, p)
		}
	}
	return out
}

// pidNamespace names the one that a process is in; empty if it is gone.
func pidNamespace(pid int) string {
	name, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	return name
}
