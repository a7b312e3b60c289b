package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/update"
	"github.com/OSInside/eos/internal/vm"
)

// host is what guests call this machine.
const host = "10.0.2.2"

// measureUpdate takes one machine through a month of Debian's updates by kexec, copies the whole
// image for comparison, and takes it back to the old version through the firmware.
func measureUpdate(ctx context.Context, l *lab) error {
	old, err := l.old(ctx, "1.0.0")
	if err != nil {
		return err
	}
	small, err := l.old(ctx, "1.1.0", withFile("/etc/motd", "Welcome to version 1.1.\n"))
	if err != nil {
		return err
	}
	month, err := l.image(ctx, "2.0.0")
	if err != nil {
		return err
	}
	repo := filepath.Join(l.scratch, "repo")
	for _, b := range []*built{old, small, month} {
		if err := l.eos(ctx, nil, "publish", b.Slot, "--repo", repo); err != nil {
			return err
		}
	}
	url, stop, err := l.serve(ctx, repo)
	if err != nil {
		return err
	}
	defer stop()
	g, err := l.start(ctx, vm.Config{Image: old.Raw})
	if err != nil {
		return err
	}
	defer g.end()
	if err := g.settled(ctx); err != nil {
		return err
	}
	if err := l.measureCheck(ctx, g, url); err != nil {
		return err
	}
	var plan update.ApplyResult
	if err := g.osUpdate(ctx, &plan, nil, "--apply --dry-run --version 1.1.0 --server "+url); err != nil {
		return err
	}
	l.add(size("one file changed (dry run): image bytes to fetch", plan.FetchedBytes).with("full image", size("", small.SlotSize)))

	var kexec, reboot jump
	if err := g.apply(ctx, url+" --activate kexec", `kexec_core: Starting new kernel`, &kexec); err != nil {
		return err
	}
	if err := g.settled(ctx); err != nil {
		return err
	}
	// A trial that was too slow for its health timeout was restarted: that is another measurement.
	if _, err := g.must(ctx, "grep COMMIT_UPDATE /proc/cmdline"); err != nil {
		return fmt.Errorf("measure kexec: the system was restarted since the jump: %w", err)
	}
	full, err := l.fullCopy(ctx, g, month)
	if err != nil {
		return err
	}
	// The other way round needs no new machine; how a system gets down and up is the same.
	if err := g.apply(ctx, url+" --activate reboot --version 1.0.0 --allow-downgrade", `reboot: Restarting system`, &reboot); err != nil {
		return err
	}
	r := kexec.result
	l.add(size("--apply: fetched in all", r.Traffic.Bytes).with("full image", size("", month.SlotSize)))
	l.add(count("--apply: requests", r.Traffic.Requests, "requests"))
	l.add(size("--apply: reused from the running slot", r.ReusedBytes))
	l.add(seconds("--apply: until the jump is prepared", kexec.prepared).with("full copy with dd", seconds("", full)))
	l.add(size("--apply: peak memory of os-update", r.PeakMemory))
	l.add(seconds("kexec: down time, last ssh answer to next", kexec.down()).with("--activate reboot", seconds("", reboot.down())))
	l.add(seconds("kexec: of it until the jump", kexec.jumped.Sub(kexec.last)).with("--activate reboot", seconds("", reboot.jumped.Sub(reboot.last))))
	l.add(seconds("kexec: of it from the jump on", kexec.first.Sub(kexec.jumped)).with("--activate reboot", seconds("", reboot.first.Sub(reboot.jumped))))
	return nil
}

// settled waits until the machine's boot has proved itself.
func (g *guest) settled(ctx context.Context) error {
	_, err := g.reached(ctx, "os-update-commit.service")
	return err
}

// clock prints the time since the guest's kernel started, which nobody sets.
const clock = "cut -d' ' -f1 /proc/uptime"

// between is the time between two readings of the clock.
func between(begin, end string) (time.Duration, error) {
	var from, to float64
	if _, err := fmt.Sscan(begin+" "+end, &from, &to); err != nil {
		return 0, fmt.Errorf("read the guest's clock: %w", err)
	}
	return time.Duration((to - from) * float64(time.Second)), nil
}

// osUpdate runs os-update and reads the JSON it prints.
func (g *guest) osUpdate(ctx context.Context, result any, took *time.Duration, args string, codes ...int) error {
	out, err := g.must(ctx, clock+"; os-update --json "+args+" 2>/run/bench.log; c=$?; "+clock+"; tail -n 3 /run/bench.log >&2; exit $c", codes...)
	if err != nil {
		return err
	}
	first, rest, _ := bytes.Cut([]byte(out), []byte("\n"))
	at := bytes.LastIndexByte(bytes.TrimSpace(rest), '\n')
	if at < 0 {
		return fmt.Errorf("run os-update %s: printed %q", args, out)
	}
	d, err := between(string(first), string(rest[at+1:]))
	if err != nil {
		return err
	}
	if took != nil {
		*took = d
	}
	if err := json.Unmarshal(rest[:at], result); err != nil {
		return fmt.Errorf("read what os-update printed: %w", err)
	}
	return nil
}

// measureCheck asks for updates, first as a device does that has never asked, then again.
func (l *lab) measureCheck(ctx context.Context, g *guest, url string) error {
	var first, again []time.Duration
	var firstCost, againCost update.CheckResult
	for range l.runs {
		if _, err := g.must(ctx, "rm -rf /run/os-update/tuf"); err != nil {
			return err
		}
		for _, x := range []struct {
			cost  *update.CheckResult
			times *[]time.Duration
		}{{&firstCost, &first}, {&againCost, &again}} {
			var took time.Duration
			if err := g.osUpdate(ctx, x.cost, &took, "--check --server "+url, 10); err != nil {
				return err
			}
			*x.times = append(*x.times, took)
		}
	}
	l.add(size("--check, first since boot: fetched", firstCost.Traffic.Bytes).with("again", size("", againCost.Traffic.Bytes)))
	l.add(count("--check: requests", firstCost.Traffic.Requests, "requests").with("again", count("", againCost.Traffic.Requests, "requests")))
	l.add(seconds("--check: time", first...).with("again", seconds("", again...)))
	return nil
}

// serve runs eos serve on a port of its own.
func (l *lab) serve(ctx context.Context, repo string) (url string, stop func(), err error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr := free.Addr().(*net.TCPAddr)
	free.Close()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- l.eos(ctx, nil, "serve", "--repo", repo, "--listen", addr.String()) }()
	stop = func() { cancel(); <-done }
	for {
		conn, err := net.Dial("tcp", addr.String())
		if err == nil {
			conn.Close()
			return fmt.Sprintf("http://%s:%d", host, addr.Port), stop, nil
		}
		select {
		case err := <-done:
			cancel()
			return "", nil, fmt.Errorf("serve repository: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fullCopy fetches the whole image and writes it to the slot that does not run, as curl and dd
// would, without a look at what is there already.
func (l *lab) fullCopy(ctx context.Context, g *guest, image *built) (time.Duration, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			sent <- err
			return
		}
		defer conn.Close()
		f, err := os.Open(image.Slot)
		if err != nil {
			sent <- err
			return
		}
		defer f.Close()
		_, err = io.Copy(conn, f)
		sent <- err
	}()
	text, err := g.must(ctx, "cat "+device.BootFile)
	if err != nil {
		return 0, err
	}
	var d device.Device
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return 0, fmt.Errorf("read %s: %w", device.BootFile, err)
	}
	out, err := g.must(ctx, fmt.Sprintf("%[1]s; bash -c 'dd of=%[2]s bs=1M iflag=fullblock conv=fsync status=none </dev/tcp/%[3]s/%[4]d' && %[1]s",
		clock, d.Slots[d.Slot.Other()], host, listener.Addr().(*net.TCPAddr).Port))
	if err != nil {
		return 0, err
	}
	if err := <-sent; err != nil {
		return 0, fmt.Errorf("send image: %w", err)
	}
	begin, end, _ := strings.Cut(out, "\n")
	return between(begin, end)
}
