package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

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
	for _, name := range []string{"podman", "crun", "tini-static", "rsync"} {
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
