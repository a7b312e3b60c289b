package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	lab   *lab
	power time.Time // when QEMU began to run
	seen  int       // lines that await has gone past
	ssh   *ssh.Client

	mu    sync.Mutex
	lines []line
	stop  context.CancelFunc
}

// line is a line on the serial console.
type line struct {
	at   time.Time // when it was whole
	text string
}

// start powers a machine on.
func (l *lab) start(ctx context.Context, c vm.Config) (*guest, error) {
	c.Name, c.Fresh, c.Bound, c.CPUs, c.Note = "bench", true, true, 2, l.note
	m, err := l.host.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	l.report.Machine.Accel = string(m.Accel)
	g := &guest{Machine: m, lab: l, power: time.Now()}
	// QEMU writes its process id when the machine is made, just before it runs.
	if fi, err := os.Stat(filepath.Join(m.Folder, "qemu.pid")); err == nil {
		g.power = fi.ModTime()
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stop = stop
	go g.read(watch)
	return g, nil
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

// greet returns when the ssh server has said hello.
func (g *guest) greet(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", g.SSHPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	text, err := bufio.NewReaderSize(conn, 256).ReadSlice('\n')
	if err == nil && !strings.HasPrefix(string(text), "SSH-") {
		err = fmt.Errorf("read ssh greeting: got %q", text)
	}
	return err
}

func (g *guest) disconnect() {
	if g.ssh != nil {
		g.ssh.Close()
		g.ssh = nil
	}
}

// connect logs in, as soon as that is possible.
func (g *guest) connect(ctx context.Context) error {
	if g.ssh != nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(g.lab.keys(), "ssh_ed25519"))
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if err := g.AwaitSSH(ctx); err != nil {
			return err
		}
		g.ssh, err = ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.SSHPort), &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // made anew in each boot
			Timeout:         time.Minute,
		})
		if err == nil {
			return nil
		}
		g.ssh = nil
		select {
		case <-ctx.Done():
			return fmt.Errorf("log in: %w (%w)", context.Cause(ctx), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// run runs a command in the guest and returns what it printed and its exit code, -1 when the
// connection ended first.
func (g *guest) run(ctx context.Context, cmd string, stdout io.Writer) (stderr string, code int, err error) {
	if err := g.connect(ctx); err != nil {
		return "", 0, err
	}
	s, err := g.ssh.NewSession()
	if err != nil {
		g.disconnect()
		return "", 0, fmt.Errorf("run in guest: %w", err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := g.ssh
	defer context.AfterFunc(ctx, func() { client.Close() })()
	defer keepAlive(client)()
	var said bytes.Buffer
	s.Stdout, s.Stderr = stdout, &said
	err = s.Run(cmd)
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil:
		g.disconnect()
		return said.String(), 0, fmt.Errorf("run %s in guest: %w", cmd, context.Cause(ctx))
	case errors.As(err, &exit):
		return said.String(), exit.ExitStatus(), nil
	case err != nil:
		g.disconnect()
		return said.String(), -1, nil
	}
	return said.String(), 0, nil
}

// keepAlive lets a connection notice that the guest behind it is another one by now: an idle one
// would wait for ever.
func keepAlive(c *ssh.Client) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if _, _, err := c.SendRequest("keepalive@eos", true, nil); err != nil {
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// must is run for a command that has to end with one of the codes, 0 if there is none.
func (g *guest) must(ctx context.Context, cmd string, codes ...int) (string, error) {
	var out bytes.Buffer
	stderr, code, err := g.run(ctx, cmd, &out)
	if err != nil {
		return "", err
	}
	ok := len(codes) == 0 && code == 0
	for _, c := range codes {
		ok = ok || c == code
	}
	if !ok {
		return "", fmt.Errorf("run %s in guest: exit code %d: %s%s", cmd, code, out.String(), strings.TrimSpace(stderr))
	}
	return strings.TrimSpace(out.String()), nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// reached waits until units are active and returns when each became so, on the guest's clock
// that starts with its kernel.
func (g *guest) reached(ctx context.Context, units ...string) ([]time.Duration, error) {
	deadline := time.Now().Add(limit)
	for {
		out, err := g.must(ctx, "systemctl show --value -p ActiveEnterTimestampMonotonic "+strings.Join(units, " ")+" | grep .")
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
			return nil, fmt.Errorf("wait for %s: not within %v", strings.Join(units, ", "), limit)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Second): // asking costs the guest time
		}
	}
}
