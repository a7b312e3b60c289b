package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/OSInside/eos/internal/update"
)

// jump is an update and the restart at its end.
type jump struct {
	result   update.ApplyResult
	prepared time.Duration // from the command to its last word
	last     time.Time     // ssh has answered for the last time
	jumped   time.Time     // the old kernel's last word
	first    time.Time     // ssh has answered again
}

func (j *jump) down() time.Duration { return j.first.Sub(j.last) }

// firstWrite notes when something is written to it first, and then begins to knock at the ssh
// port: earlier, that would cost the update time.
type firstWrite struct {
	text  bytes.Buffer // not embedded: its ReadFrom would go past Write
	ctx   context.Context
	guest *guest
	at    time.Time
	probe *prober
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
		w.probe = w.guest.probe(w.ctx)
	}
	return w.text.Write(p)
}

// apply updates the machine and watches it go down and come up again.
func (g *guest) apply(ctx context.Context, args, jumpLine string, j *jump) error {
	if err := g.connect(ctx); err != nil {
		return err
	}
	g.lab.note("os-update --apply --server %s", args)
	out := firstWrite{ctx: ctx, guest: g}
	g.mu.Lock()
	g.seen = len(g.lines)
	g.mu.Unlock()
	began := time.Now()
	stderr, code, err := g.run(ctx, "os-update --json --apply --server "+args, &out)
	if out.probe != nil {
		defer out.probe.stop()
	}
	if err != nil {
		return err
	}
	if code != 0 && code != -1 || out.at.IsZero() {
		return fmt.Errorf("run os-update --apply: exit code %d: %s%s", code, out.text.String(), lastLines(stderr, 3))
	}
	g.disconnect()
	if err := json.Unmarshal(out.text.Bytes(), &j.result); err != nil {
		return fmt.Errorf("read what os-update printed: %w: %s", err, out.text.String())
	}
	j.prepared = out.at.Sub(began)
	gone, _, err := g.await(ctx, jumpLine)
	if err != nil {
		return err
	}
	j.jumped = gone.at
	j.last, j.first, err = out.probe.around(ctx, out.at, gone.at)
	return err
}

// prober knocks at the ssh port again and again.
type prober struct {
	cancel  context.CancelFunc
	wait    sync.WaitGroup
	mu      sync.Mutex
	answers []time.Time
}

// probe asks twice a second and does not wait for one answer to ask again: a question that is
// lost, because there is no network, must not hold up the next. At most six are open, below
// what makes the ssh server turn people away.
func (g *guest) probe(ctx context.Context) *prober {
	ctx, cancel := context.WithCancel(ctx)
	p := &prober{cancel: cancel}
	p.wait.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			p.wait.Go(func() {
				if g.greet(ctx, 3*time.Second) == nil {
					p.mu.Lock()
					p.answers = append(p.answers, time.Now())
					p.mu.Unlock()
				}
			})
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return p
}

func (p *prober) stop() {
	p.cancel()
	p.wait.Wait()
}

// around waits for the first answer after the jump, and returns when it was and when the last
// answer before the jump was: os-update's own words, if there was none to a question.
func (p *prober) around(ctx context.Context, said, jumped time.Time) (last, first time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		p.mu.Lock()
		last, first = said, time.Time{}
		for _, a := range p.answers {
			switch {
			case a.Before(jumped):
				if a.After(last) {
					last = a
				}
			case first.IsZero() || a.Before(first):
				first = a
			}
		}
		p.mu.Unlock()
		if !first.IsZero() {
			return last, first, nil
		}
		select {
		case <-ctx.Done():
			return last, first, fmt.Errorf("wait for ssh after the jump: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
