package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/OSInside/eos/internal/vm"
)

// limit bounds every wait for a guest. It is no measure: only something that never comes at all
// runs into it.
const limit = 15 * time.Minute

// guest is a running machine and what it has said.
type guest struct {
	*vm.Machine
	lab    *lab
	config vm.Config // what it was started with
	power  time.Time // when QEMU began to run
	seen   int       // lines that await has gone past
	ssh    *ssh.Client

	mu    sync.Mutex
	lines []line
	stop  context.CancelFunc
}

// line is a line on the serial console.
type line struct {
	at   time.Time // when it was whole
	text string
}

// start powers a new machine on.
func (l *lab) start(ctx context.Context, c vm.Config) (*guest, error) {
	c.Name, c.Fresh, c.Bound, c.CPUs = "bench", true, true, 2
	return l.powerOn(ctx, c)
}

func (l *lab) powerOn(ctx context.Context, c vm.Config) (*guest, error) {
	if l.report.Machine.Accel == "" {
		c.Note = l.note // once is enough
	}
	m, err := l.host.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	l.report.Machine.Accel = string(m.Accel)
	g := &guest{Machine: m, lab: l, config: c, power: time.Now()}
	// QEMU writes its process id when the machine is made, just before it runs.
	if fi, err := os.Stat(filepath.Join(m.Folder, "qemu.pid")); err == nil {
		g.power = fi.ModTime()
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stop = stop
	go g.read(watch)
	return g, nil
}

// again shuts the machine down in good order and powers it on with what is on its disks.
func (g *guest) again(ctx context.Context) (*guest, error) {
	soon, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := g.Stop(soon); err != nil {
		return nil, err
	}
	g.end()
	// Nobody is to take the last boot's lines for those of the next.
	if err := os.Remove(g.SerialLog()); err != nil {
		return nil, err
	}
	c := g.config
	c.Fresh = false
	return g.lab.powerOn(ctx, c)
}

// end pulls the plug.
func (g *guest) end() {
	g.disconnect()
	g.stop()
	if g.Running() {
		if err := g.PowerCut(context.Background()); err != nil {
			g.lab.note("%v", err)
		}
	}
}

var escapes = regexp.MustCompile(`\x1b(\[[0-9;?=!]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>])`)

// read notes when each line of the serial console comes, to about 10 ms.
func (g *guest) read(ctx context.Context) {
	var f *os.File
	defer func() { f.Close() }()
	var rest []byte
	buf := make([]byte, 64<<10)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if f == nil {
			f, _ = os.Open(g.SerialLog()) // QEMU makes it
		}
		if f != nil {
			n, _ := f.Read(buf)
			now := time.Now()
			rest = append(rest, buf[:n]...)
			for {
				head, tail, ok := bytes.Cut(rest, []byte("\n"))
				if !ok {
					break
				}
				text := strings.ReplaceAll(string(escapes.ReplaceAll(head, nil)), "\r", "")
				g.mu.Lock()
				g.lines = append(g.lines, line{now, text})
				g.mu.Unlock()
				rest = tail
			}
			if n == len(buf) {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// await waits for a line after those it has found before, and returns its groups.
func (g *guest) await(ctx context.Context, pattern string) (line, []string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return line{}, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ended := !g.Running()
		g.mu.Lock()
		news := g.lines[g.seen:]
		g.mu.Unlock()
		for _, n := range news {
			g.seen++
			if m := re.FindStringSubmatch(n.text); m != nil {
				return n, m, nil
			}
		}
		if ended {
			return line{}, nil, g.complain(pattern, errors.New("the machine has ended"))
		}
		select {
		case <-ctx.Done():
			return line{}, nil, g.complain(pattern, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// complain keeps the console of a machine that did not do what it should.
func (g *guest) complain(what string, err error) error {
	kept := filepath.Join(g.lab.dir, "serial.log")
	if text, rerr := os.ReadFile(g.SerialLog()); rerr == nil {
		if os.WriteFile(kept, text, 0o644) == nil {
			return fmt.Errorf("wait for %q on the console: %w (all of it is in %s)", what, err, kept)
		}
	}
	return fmt.Errorf("wait for %q on the console: %w", what, err)
}

// printk matches a line of the kernel's log; the first group is its time in seconds.
func printk(text string) string { return `\[ *(\d+\.\d+)\] ` + text }

// awaitKernel is await for a line of the kernel's log, and returns the guest's own time of it.
func (g *guest) awaitKernel(ctx context.Context, text string) (line, time.Duration, error) {
	n, m, err := g.await(ctx, printk(text))
	if err != nil {
		return n, 0, err
	}
	s, err := strconv.ParseFloat(m[1], 64)
	return n, time.Duration(s * float64(time.Second)), err
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// reached waits until units are active and returns when each became so, on the guest's clock
// that starts with its kernel.
func (g *guest) reached(ctx context.Context, units ...string) ([]time.Duration, error) {
	return g.times(ctx, "ActiveEnterTimestampMonotonic", units...)
}

// times waits until systemd has a time for each of the units, and returns them.
func (g *guest) times(ctx context.Context, property string, units ...string) ([]time.Duration, error) {
	deadline := time.Now().Add(limit)
	for {
		out, err := g.must(ctx, "systemctl show --value -p "+property+" "+strings.Join(units, " ")+" | grep .")
		if err != nil {
			return nil, err
		}
		var times []time.Duration
		for _, word := range strings.Fields(out) {
			us, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read times of units: %w", err)
			}
			if us > 0 {
				times = append(times, time.Duration(us)*time.Microsecond)
			}
		}
		if len(times) == len(units) {
			return times, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("wait for %s of %s: not within %v", property, strings.Join(units, ", "), limit)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Second): // asking costs the guest time
		}
	}
}
