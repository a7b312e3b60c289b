package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/cli"
)

const (
	timerTW  = "os-update-daemon@EOS.aarch64-RPI-TW.timer"
	timerALP = "os-update-daemon@EOS.aarch64-RPI-ALP.timer"
)

func TestPlanTimers(t *testing.T) {
	tw, alp := "EOS.aarch64-RPI-TW.raw", "EOS.aarch64-RPI-ALP.raw"
	for _, c := range []struct {
		name           string
		images, timers []string
		interval       time.Duration
		dropIn         string
		write          bool
		calls          string
	}{
		{name: "nothing at all", interval: time.Hour},
		{name: "first start", images: []string{alp, tw}, interval: time.Hour, calls: "start -- " + timerALP + " " + timerTW},
		{name: "running already", images: []string{tw}, timers: []string{timerTW}, interval: time.Hour, calls: "start -- " + timerTW},
		{name: "no longer configured", images: []string{tw}, timers: []string{timerTW, timerALP}, interval: time.Hour,
			calls: "stop -- " + timerALP + "\nstart -- " + timerTW},
		{name: "the repository", images: []string{"repository.raw", tw}, interval: time.Hour,
			calls: "start -- os-update-daemon@repository.timer " + timerTW},
		{name: "none configured", timers: []string{timerTW}, interval: time.Hour, calls: "stop -- " + timerTW},
		{name: "of somebody else", timers: []string{"os-update.timer", "os-update-daemon@x.service", "fstrim.timer"}, interval: time.Hour},
		{name: "an interval", images: []string{tw}, interval: 5 * time.Minute, write: true, calls: "daemon-reload\nrestart -- " + timerTW},
		{name: "the same interval", images: []string{tw}, timers: []string{timerTW}, interval: 5 * time.Minute,
			dropIn: dropInText(5 * time.Minute), calls: "start -- " + timerTW},
		{name: "another interval", images: []string{tw}, timers: []string{timerTW, timerALP}, interval: time.Minute,
			dropIn: dropInText(5 * time.Minute), write: true, calls: "daemon-reload\nstop -- " + timerALP + "\nrestart -- " + timerTW},
		{name: "back to the default", images: []string{tw}, timers: []string{timerTW}, interval: time.Hour,
			dropIn: dropInText(5 * time.Minute), write: true, calls: "daemon-reload\nrestart -- " + timerTW},
	} {
		p := planTimers(c.images, c.timers, c.interval, c.dropIn)
		var calls []string
		for _, call := range p.calls {
			calls = append(calls, strings.Join(call, " "))
		}
		if diff := cmp.Diff(c.calls, strings.Join(calls, "\n")); diff != "" {
			t.Errorf("%s: calls differ (-want +got):\n%s", c.name, diff)
		}
		if want := dropInText(c.interval); c.write != (p.dropIn == want) || !c.write && p.dropIn != "" {
			t.Errorf("%s: drop-in %q, want it written: %v", c.name, p.dropIn, c.write)
		}
	}
}

// TestTimerHasTheDefault: without a drop-in the interval is that of the unit.
func TestTimerHasTheDefault(t *testing.T) {
	unit := read(t, units+"os-update-daemon@.timer")
	for line := range strings.Lines(dropInText(defaultInterval)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || line == "OnActiveSec=" {
			continue
		}
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("os-update-daemon@.timer lacks %s", line)
		}
	}
}

func TestRunTimers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	o := &options{
		config:   write("os-update.yml", "update:\n- {image: https://h/x, name: EOS.aarch64-RPI-TW.raw}\n"),
		settings: write("conf", "OS_CHECK_INTERVAL=5min\n"),
	}
	var calls []string
	broken := ""
	s := initSystem{dropIn: filepath.Join(dir, "x.timer.d", "10-interval.conf"), systemctl: func(_ context.Context, args ...string) ([]byte, error) {
		if args[0] == "list-units" {
			return []byte(timerALP + " loaded active waiting Look for EOS\n"), nil
		}
		calls = append(calls, strings.Join(args, " "))
		if args[0] == broken {
			return nil, errors.New("run systemctl: exit status 1")
		}
		return nil, nil
	}}
	run := func() error {
		calls = nil
		return runTimers(t.Context(), &cli.Env{Stderr: io.Discard}, o, s)
	}
	all := []string{"daemon-reload", "stop -- " + timerALP, "restart -- " + timerTW}
	// What did not get effective is done again.
	for _, broken = range []string{"daemon-reload", "restart", ""} {
		err := run()
		if diff := cmp.Diff(all, calls); diff != "" || (err == nil) != (broken == "") {
			t.Errorf("with a broken %q: %v, calls differ (-want +got):\n%s", broken, err, diff)
		}
	}
	if b, err := os.ReadFile(s.dropIn); err != nil || string(b) != dropInText(5*time.Minute) {
		t.Errorf("drop-in = %q, %v", b, err)
	}
	if err := run(); err != nil || len(calls) != 2 || calls[1] != "start -- "+timerTW {
		t.Errorf("again: %q, %v, want only what is left to do", calls, err)
	}
	o.settings = write("conf", "OS_CHECK_INTERVAL=soon\n")
	if err := run(); err == nil || !strings.Contains(err.Error(), "conf:1: OS_CHECK_INTERVAL \"soon\"") || len(calls) != 0 {
		t.Errorf("a bad interval: %v, calls %q, want an error and none", err, calls)
	}
}

func TestInterval(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"": defaultInterval, "OS_CHECK_INTERVAL=90": 90 * time.Second, "OS_CHECK_INTERVAL=90s": 90 * time.Second,
		"OS_CHECK_INTERVAL=5m": 5 * time.Minute, "OS_CHECK_INTERVAL=5min": 5 * time.Minute, "OS_CHECK_INTERVAL=12h": 12 * time.Hour,
		"OS_CHECK_INTERVAL=2d": 48 * time.Hour, "OS_CHECK_INTERVAL=366d": maxInterval, " OS_CHECK_INTERVAL=\"2d\" ": 48 * time.Hour,
		"# OS_CHECK_INTERVAL=1s\nOS_SERVE_OPTIONS=--json\nOS_CHECK_INTERVAL=3h\nOS_CHECK_INTERVAL='4h'\n": 4 * time.Hour,
	} {
		file := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := loadInterval(file); err != nil || got != want {
			t.Errorf("loadInterval(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	if got, err := loadInterval(filepath.Join(t.TempDir(), "none")); err != nil || got != defaultInterval {
		t.Errorf("loadInterval without a file = %v, %v, want %v", got, err, defaultInterval)
	}
	for _, in := range []string{"", "0", "0h", "-1", "1.5h", "1 h", "1H", "h", "1w", "1h30m", "367d", "999999999h", "9999999999"} {
		file := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(file, []byte("# x\nOS_CHECK_INTERVAL="+in+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := loadInterval(file); err == nil || !strings.Contains(err.Error(), "conf:2: OS_CHECK_INTERVAL") {
			t.Errorf("loadInterval(%q) = %v, %v, want an error that names the line", in, got, err)
		}
	}
}
