package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// parent returns that of a process; 0 if there is none.
func parent(pid int) int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The name of the program, in brackets, may have blanks in it.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

// pilotName and watcherName are how the parts of a flake's launcher are called here.
const (
	pilotName   = "podman-pilot"
	watcherName = "podman-pilot's watcher" // a shell
)

// program is what a process runs.
func program(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return ""
	}
	name := filepath.Base(exe)
	if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); name != pilotName && err == nil && strings.Contains(string(args), pilotName+"\x00") {
		return watcherName
	}
	return name
}

// resident is how much memory a process has, with what it shares.
func resident(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kB * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}
