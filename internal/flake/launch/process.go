package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

// process is one that may end meanwhile; -1: it has.
type process int

func openProcess(pid int) process {
	if pid <= 0 {
		return -1
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	return process(fd)
}

// gone waits for its end.
func (p process) gone(wait time.Duration) bool {
	if p < 0 {
		return true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	return err == nil && n > 0
}

func (p process) kill() { _ = unix.PidfdSendSignal(int(p), unix.SIGKILL, nil, 0) } // it may be gone

// runs tells whether a process that a runtime has made for an application is that by now.
func runs(pid int) bool {
	if pid == 0 {
		return false
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	first, _, _ := strings.Cut(string(line), "\x00")
	return err == nil && !slices.Contains([]string{"", "crun", "runc"}, filepath.Base(first))
}

// groupOf is what a signal is sent to for a process and those it has started: its process
// group, unless that is ours.
func groupOf(pid int) int {
	if group, err := unix.Getpgid(pid); err == nil && group > 1 && group != unix.Getpgrp() {
		return -group
	}
	return pid
}

// pidNamespace names the one that a process is in; empty if it is gone.
func pidNamespace(pid int) string {
	name, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	return name
}
