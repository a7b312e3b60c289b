package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

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
