package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
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
	watcherName = "podman-pilot --watch"
)

// program is what a process runs.
func program(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return ""
	}
	name := filepath.Base(exe)
	if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); name == pilotName && err == nil && strings.Contains(string(args), "\x00--watch\x00") {
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

// used is the memory of a program.
type used struct {
	program string
	bytes   float64
}

// helpers are the programs that stand between a caller and the application.
var helpers = []string{pilotName, watcherName, "podman", "conmon", "crun"}

// memory starts a program that hands on what it reads, and looks at what there is when it
// has done so.
func (h *flakeHost) memory(ctx context.Context, argv []string) ([]used, error) {
	p, err := h.pipe(ctx, argv)
	if err != nil {
		return nil, err
	}
	defer p.end()
	one := []byte("x")
	if _, err := p.in.Write(one); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(p.out, one); err != nil {
		return nil, p.failed(err)
	}
	time.Sleep(100 * time.Millisecond) // until all are at rest
	var out []used
	for todo := h.left(); len(todo) > 0; todo = todo[1:] {
		todo = append(todo, children(todo[0])...)
		name := program(todo[0])
		if !slices.Contains(helpers, name) {
			continue
		}
		bytes, err := resident(todo[0])
		if err != nil {
			return nil, err
		}
		out = append(out, used{name, bytes})
	}
	if err := p.in.Close(); err != nil {
		return nil, err
	}
	return out, p.wait()
}

// amount is how many bytes are sent through.
const amount = 1_000_000_000

// throughput sends them and returns MB/s, from the first byte that comes out to the last: a
// start is measured elsewhere.
func (h *flakeHost) throughput(ctx context.Context, argv []string) (float64, error) {
	p, err := h.pipe(ctx, argv)
	if err != nil {
		return 0, err
	}
	defer p.end()
	sent := make(chan error, 1)
	go func() {
		block := slices.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n"), 4096)
		var err error
		for left := amount; left > 0 && err == nil; left -= len(block) {
			block = block[:min(left, len(block))]
			_, err = p.in.Write(block)
		}
		sent <- errors.Join(err, p.in.Close())
	}()
	buffer := make([]byte, 256<<10)
	n, err := io.ReadAtLeast(p.out, buffer, 1)
	if err != nil {
		return 0, p.failed(err)
	}
	began := time.Now()
	more, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{p.out}, buffer)
	took := time.Since(began).Seconds()
	if err := errors.Join(err, <-sent, p.wait()); err != nil {
		return 0, err
	}
	if got := int64(n) + more; got != amount {
		return 0, fmt.Errorf("%d bytes of %d came out", got, amount)
	}
	return amount / 1e6 / took, nil
}

// piped is a program at work between two pipes.
type piped struct {
	h       *flakeHost
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	in, out *os.File
	ended   bool
}

func (h *flakeHost) pipe(ctx context.Context, argv []string) (*piped, error) {
	if err := h.said.Truncate(0); err != nil {
		return nil, err
	}
	inR, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), in.Close())
	}
	p := &piped{h: h, in: in, out: out}
	ctx, p.cancel = context.WithTimeout(ctx, flakePatience)
	p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, h.said
	err = p.cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		p.ended = true
		p.end()
		return nil, err
	}
	return p, nil
}

func (p *piped) wait() error {
	p.ended = true
	if err := p.cmd.Wait(); err != nil {
		return p.failed(err)
	}
	return nil
}

// failed adds what the program said.
func (p *piped) failed(err error) error {
	text, _ := io.ReadAll(io.NewSectionReader(p.h.said, 0, 4000))
	return fmt.Errorf("run %s: %w: %s", strings.Join(p.cmd.Args, " "), err, strings.TrimSpace(string(text)))
}

// end frees what is left after an error too.
func (p *piped) end() {
	p.in.Close()
	p.out.Close()
	if !p.ended {
		p.cancel()
		_ = p.cmd.Wait() // it was killed
	}
	p.cancel()
}
