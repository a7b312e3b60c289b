package update

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/esp"
	"github.com/google/go-cmp/cmp"
)

const loader = "EFI/BOOT/BOOTX64.EFI"

// file writes a file below a folder.
func (l *lab) file(dir, name, content string) {
	l.t.Helper()
	path := filepath.Join(dir, name)
	l.must(os.MkdirAll(filepath.Dir(path), 0o700))
	l.must(os.WriteFile(path, []byte(content), 0o600))
}

// onESP reads the whole EFI system partition.
func (l *lab) onESP() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	l.must(filepath.WalkDir(l.machine.esp, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(l.machine.esp, path)
		out[name] = string(b)
		return err
	}))
	return out
}

// withLoaders has one boot loader on the ESP and another in the running image.
func withLoaders(t *testing.T) *lab {
	l := newLab(t)
	l.file(l.machine.esp, loader, "loader one")
	l.file(l.machine.fw, loader, "loader two")
	return l
}

func firmwareState(l *lab) string {
	l.t.Helper()
	st := l.u.Status().Firmware
	if st == nil {
		l.t.Fatal("status says nothing about firmware")
	}
	return st.State + " " + strings.Join(st.Other, " ") + st.Why
}

func TestFirmware(t *testing.T) {
	l := withLoaders(t)
	before := l.onESP()
	if got, want := firmwareState(l), "other "+loader; got != want {
		t.Errorf("status = %q, want %q", got, want)
	}
	want := &FirmwareResult{Version: "1", Changed: true, DryRun: true, Files: []FirmwareFile{
		{Name: loader, State: FirmwareReplaced, Old: sum16("loader one"), New: sum16("loader two"), Previous: "EFI/BOOT/BOOTX64.OLD"},
	}}
	l.machine.onESP = func(write bool) {
		if write {
			t.Error("a dry run mounts for writing")
		}
	}
	res, err := l.u.Firmware(t.Context(), FirmwareOptions{DryRun: true})
	l.must(err)
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("dry run: %s", diff)
	}
	if diff := cmp.Diff(before, l.onESP()); diff != "" {
		t.Errorf("a dry run has written: %s", diff)
	}
	l.machine.onESP = nil

	res, err = l.u.Firmware(t.Context(), FirmwareOptions{})
	l.must(err)
	want.DryRun = false
	if diff := cmp.Diff(want, res); diff != "" {
		t.Error(diff)
	}
	after := maps.Clone(before)
	after[loader], after["EFI/BOOT/BOOTX64.OLD"] = "loader two", "loader one"
	if diff := cmp.Diff(after, l.onESP()); diff != "" {
		t.Error(diff)
	}
	if got := firmwareState(l); got != "current " {
		t.Errorf("status = %q, want current", got)
	}

	l.machine.onESP = func(write bool) {
		if write {
			t.Error("with nothing to do it mounts for writing")
		}
	}
	res, err = l.u.Firmware(t.Context(), FirmwareOptions{})
	l.must(err)
	if res.Changed || res.Files[0].State != FirmwareCurrent || res.Files[0].Previous != "" {
		t.Errorf("Firmware again = %+v, want nothing to do", res)
	}
}

// sum16 is how a result names a file's content.
func sum16(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content)))[:16] }

func TestFirmwareNew(t *testing.T) {
	l := withLoaders(t)
	l.file(l.machine.fw, "EFI/BOOT/BOOTIA32.EFI", "small")
	res, err := l.u.Firmware(t.Context(), FirmwareOptions{})
	l.must(err)
	if len(res.Files) != 2 || res.Files[0].State != FirmwareNew || res.Files[0].Old != "" || res.Files[1].State != FirmwareReplaced {
		t.Errorf("Firmware = %+v, want a new file and a replaced one", res)
	}
	if got := l.onESP(); got["EFI/BOOT/BOOTIA32.EFI"] != "small" || got[loader] != "loader two" {
		t.Errorf("the ESP has %q", got)
	}
}

func TestFirmwareRefuses(t *testing.T) {
	state := func(change func(*bootstate.State)) func(*lab) {
		return func(l *lab) {
			s := l.state()
			change(&s)
			l.must(esp.Dir(l.machine.esp).SetState(s))
		}
	}
	other := func(version string) func(*lab) {
		return func(l *lab) {
			l.write("b", l.build(version))
			state(func(s *bootstate.State) { s.B.Status = bootstate.Committed })(l)
		}
	}
	for _, c := range []struct {
		name, want string
		code       cli.Code
		prepare    func(l *lab)
		forced     bool // --allow-downgrade allows it
	}{
		{"on trial", "on trial", cli.Refused, state(func(s *bootstate.State) {
			s.Default, s.B.Status, s.A.Status = "b", bootstate.Committed, bootstate.Trial
		}), false},
		{"not committed", "not committed", cli.Refused, state(func(s *bootstate.State) {
			s.Default, s.B.Status, s.A.Status = "b", bootstate.Committed, bootstate.Failed
		}), false},
		{"trial pending", "about to start", cli.Refused, state(func(s *bootstate.State) { s.Once, s.B.Status = "b", bootstate.Trial }), false},
		{"newer one committed", "newer than 1", cli.Refused, other("2"), true},
		{"other one unknown", "not known", cli.Refused, state(func(s *bootstate.State) { s.B.Status = bootstate.Committed }), true},
		{"boot state lost", "boot state is lost", cli.Refused, func(l *lab) {
			for _, name := range bootstate.Files {
				l.file(l.machine.esp, "EFI/eos/"+name, "rubbish")
			}
		}, false},
		{"running slot not signed", "does not verify", cli.Unverified, func(l *lab) { l.u.Accepted = nil }, false},
		{"no firmware", "no firmware in", cli.Refused, func(l *lab) { l.must(os.RemoveAll(filepath.Join(l.machine.fw, "EFI"))) }, false},
		{"no tree", "no firmware in", cli.Refused, func(l *lab) { l.must(os.RemoveAll(l.machine.fw)) }, false},
		{"over a slot", "slots and boot state", cli.Failure, func(l *lab) { l.file(l.machine.fw, "EFI/eos/a.efi", "x") }, false},
		{"same previous", "same name", cli.Failure, func(l *lab) { l.file(l.machine.fw, "EFI/BOOT/BOOTX64.DAT", "x") }, false},
		{"a link", "is not a file", cli.Failure, func(l *lab) {
			l.must(os.Symlink("/etc/passwd", filepath.Join(l.machine.fw, "EFI/BOOT/LINK")))
		}, false},
		{"no ESP", "no medium", cli.Failure, func(l *lab) { l.machine.noESP = errors.New("no medium") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := withLoaders(t)
			c.prepare(l)
			before := l.onESP()
			for _, o := range []FirmwareOptions{{}, {DryRun: true}, {AllowDowngrade: true}} {
				res, err := l.u.Firmware(t.Context(), o)
				if o.AllowDowngrade && c.forced {
					if err != nil || !res.Changed {
						t.Errorf("Firmware(%+v) = %+v, %v, want it done", o, res, err)
					}
					continue
				}
				if c.code != cli.Failure {
					wantCode(t, fmt.Sprintf("Firmware(%+v)", o), err, c.code, c.want)
				} else if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Firmware(%+v) = %v, want an error with %q", o, err, c.want)
				}
				if diff := cmp.Diff(before, l.onESP()); diff != "" {
					t.Errorf("what was refused was written: %s", diff)
				}
			}
		})
	}
	// One that is as new, or older, or was never committed, is no reason.
	for _, prepare := range []func(*lab){other("1"), other("0.9"), func(l *lab) { l.write("b", l.build("2")) }} {
		l := withLoaders(t)
		prepare(l)
		if res, err := l.u.Firmware(t.Context(), FirmwareOptions{}); err != nil || !res.Changed {
			t.Errorf("Firmware = %+v, %v, want it done", res, err)
		}
	}
}

func TestFirmwareLocked(t *testing.T) {
	l := withLoaders(t)
	unlock, err := lock(t.Context(), l.u.Lock, 0)
	l.must(err)
	defer unlock()
	_, err = l.u.Firmware(t.Context(), FirmwareOptions{})
	wantCode(t, "Firmware while another run is at work", err, cli.Locked, "another os-update")
}

// A run that is cut between two files is completed by the next.
func TestFirmwareCut(t *testing.T) {
	power := errors.New("power is off")
	for n := 1; ; n++ {
		l := withLoaders(t)
		l.file(l.machine.esp, "EFI/BOOT/BOOTAA64.EFI", "arm one")
		l.file(l.machine.fw, "EFI/BOOT/BOOTAA64.EFI", "arm two")
		count := 0
		l.u.Fault = func(point string) error {
			if count++; count == n {
				return fmt.Errorf("%w %s", power, point)
			}
			return nil
		}
		_, err := l.u.Firmware(t.Context(), FirmwareOptions{})
		l.u.Fault = nil
		if count < n {
			l.must(err)
			if n != 5 {
				t.Errorf("%d places to cut, want 4", n-1)
			}
			return
		}
		if !errors.Is(err, power) {
			t.Fatalf("cut %d = %v, want %v", n, err, power)
		}
		_, err = l.u.Firmware(t.Context(), FirmwareOptions{})
		l.must(err)
		got := l.onESP()
		for name, want := range map[string]string{
			loader: "loader two", "EFI/BOOT/BOOTX64.OLD": "loader one",
			"EFI/BOOT/BOOTAA64.EFI": "arm two", "EFI/BOOT/BOOTAA64.OLD": "arm one",
		} {
			if got[name] != want {
				t.Errorf("cut %d, completed: %s = %q, want %q", n, name, got[name], want)
			}
		}
	}
}

// Status says why it does not know, and never fails.
func TestFirmwareStatus(t *testing.T) {
	l := newLab(t)
	if got := firmwareState(l); !strings.HasPrefix(got, "unknown the running image has no firmware") {
		t.Errorf("status of an image without firmware = %q", got)
	}
	l.file(l.machine.fw, loader, "loader")
	if got := firmwareState(l); got != "other "+loader {
		t.Errorf("status without a boot loader = %q, want other", got)
	}
	l.machine.noESP = errors.New("no medium")
	if got := firmwareState(l); got != "unknown no medium" {
		t.Errorf("status without an ESP = %q, want unknown", got)
	}
	for state, want := range map[string]string{FirmwareCurrent: "that of the running", FirmwareOther: "--firmware replaces", FirmwareUnknown: "unknown: why"} {
		var b strings.Builder
		st := &Status{Firmware: &FirmwareStatus{State: state, Why: "why"}}
		l.must(st.Text(&b))
		if !strings.Contains(b.String(), "firmware  ") || !strings.Contains(b.String(), want) {
			t.Errorf("text of status %s = %q, want %q in it", state, b.String(), want)
		}
	}
}
