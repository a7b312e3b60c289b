package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

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
