package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
)

// flakeEnv names what this program does when it is started as the one that measures flakes.
const flakeEnv = "EOS_BENCH_FLAKE"

// flakeJob is what it is told.
type flakeJob struct {
	Dir    string // its own, gone afterwards
	Bin    string // folder of the programs
	Rounds int
	Result string // file for a flakes
}

// flakes is what was measured with a podman.
type flakes struct {
	Podman    string      `json:"podman"`
	Runtime   string      `json:"runtime"`
	LogDriver string      `json:"log_driver"` // podman's default here
	Rounds    int         `json:"rounds"`
	LoadAfter string      `json:"load_at_end"`
	Cases     []flakeCase `json:"cases"`
}

// measureFlake has this program measure itself in mounts of its own.
func measureFlake(ctx context.Context, l *lab) error {
	if os.Geteuid() != 0 {
		return errors.New("podman's containers are root's: run this as root")
	}
	for _, name := range []string{"podman", "crun", "catatonit", "rsync"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w (scripts/setup bench installs it)", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(l.bin)
	if err != nil {
		return err
	}
	job := flakeJob{Dir: filepath.Join(l.scratch, "flake"), Bin: bin, Rounds: l.rounds, Result: filepath.Join(l.scratch, "flake.json")}
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), flakeEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	failed := cmd.Run()
	result, err := os.ReadFile(job.Result)
	switch {
	case failed != nil && err != nil:
		return failed
	case err == nil:
		err = json.Unmarshal(result, &l.report.Flakes)
	}
	return errors.Join(failed, err)
}

// flakeMain is the measuring itself. What was measured until something failed is kept.
func flakeMain(ctx context.Context, text string) error {
	var job flakeJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	l := &lab{}
	h, err := newFlakeHost(ctx, job)
	if err != nil {
		return err
	}
	defer h.close()
	r, err := h.about(ctx)
	if err != nil {
		return err
	}
	r.Rounds = job.Rounds
	var failed error
	for _, measure := range []func(context.Context, *flakeHost) ([]flakeCase, error){
		flakeStarts, flakeResumes, flakeDeltas, flakePrograms, flakeMemory, flakeStreams,
	} {
		cases, err := measure(ctx, h)
		r.Cases = append(r.Cases, cases...)
		for _, c := range cases {
			l.note("%s", c.line())
		}
		if failed = err; err != nil {
			break
		}
	}
	r.LoadAfter = thisMachine().Load
	result, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(job.Result, result, 0o600)
	}
	return errors.Join(failed, err)
}

// about describes the podman at hand.
func (h *flakeHost) about(ctx context.Context) (flakes, error) {
	var info struct {
		Version struct{ Version string }
		Host    struct {
			LogDriver  string
			OCIRuntime struct{ Name, Version string }
		}
	}
	out, err := command.Output(ctx, command.Cmd{Argv: []string{podman, "info", "--format", "json"}})
	if err == nil {
		err = json.Unmarshal(out, &info)
	}
	if err != nil {
		return flakes{}, fmt.Errorf("ask podman about itself: %w", err)
	}
	first, _, _ := strings.Cut(info.Host.OCIRuntime.Version, "\n")
	return flakes{Podman: info.Version.Version, Runtime: first, LogDriver: info.Host.LogDriver}, nil
}

// contender is one way to have something done.
type contender struct {
	name string
	run  func(context.Context) (float64, error) // seconds, or what else is measured
}

// timed is a contender of which the time counts that it takes.
func timed(name string, run func(context.Context) error) contender {
	return contender{name, func(ctx context.Context) (float64, error) {
		began := time.Now()
		err := run(ctx)
		return time.Since(began).Seconds(), err
	}}
}

// warmUp is how many rounds come before those that count.
const warmUp = 3

// rounds lets contenders take turns. What one leaves behind has ended before the next begins.
func (h *flakeHost) rounds(ctx context.Context, of []contender) ([]series, error) {
	out := make([]series, len(of))
	for round := range warmUp + h.job.Rounds {
		for i, c := range of {
			if err := h.settle(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			v, err := c.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", c.name, round+1, err)
			}
			if round >= warmUp {
				out[i].Samples = append(out[i].Samples, v)
			}
		}
	}
	for i, c := range of {
		out[i].summarise(c.name)
	}
	return out, h.settle(ctx)
}

// settle waits until processes have ended that those leave behind which are started here: all
// become children of this process. A pause is for what the kernel clears up.
func (h *flakeHost) settle(ctx context.Context) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		left := h.left()
		if len(left) == 0 {
			time.Sleep(50 * time.Millisecond)
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", left)
		}
		for _, pid := range left {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it runs, or has ended
		}
	}
}

// left are the children of this process, but those that stay.
func (h *flakeHost) left() []int {
	return slices.DeleteFunc(children(os.Getpid()), func(pid int) bool { return slices.Contains(h.stay, pid) })
}

// children are those of a process.
func children(of int) []int {
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && parent(pid) == of {
			out = append(out, pid)
		}
	}
	return out
}
