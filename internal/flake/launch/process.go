package launch

import (
	"fmt"
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

// handsOn tells whether podman is ready to hand signals on: then it catches SIGTSTP, which a
// program in Go does only if it wants to, unlike others. Podman of a user is two processes, one of
// which is in the user's namespaces.
func handsOn(pid int) bool {
	name := statusField(pid, "Name:")
	for _, child := range children(pid) {
		if statusField(child, "Name:") == name {
			return handsOn(child)
		}
	}
	caught, err := strconv.ParseUint(statusField(pid, "SigCgt:"), 16, 64)
	return err == nil && caught&(1<<(unix.SIGTSTP-1)) != 0
}

// children are the processes that one has started and not lost sight of.
func children(pid int) []int {
	var out []int
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, thread := range threads {
		text, _ := os.ReadFile(thread) // the thread may be gone
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// statusField is what /proc/PID/status has behind a name; empty if there is none.
func statusField(pid int, name string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+name)
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value)
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
