package update

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/fleet"
)

// fakeFleet is a program in the place of fleet; it counts how often it is called.
func fakeFleet(t *testing.T, script string) (f Fleet, calls func() int) {
	t.Helper()
	dir := t.TempDir()
	f = Fleet{Program: filepath.Join(dir, "fleet"), Key: filepath.Join(dir, "id_fleet")}
	script = "#!/bin/sh\necho \"$*\" >> " + dir + "/calls\nkey=" + f.Key + "\n" + script
	if err := os.WriteFile(f.Program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return f, func() int {
		b, err := os.ReadFile(dir + "/calls")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Count(string(b), "--getkey\n")
	}
}

func TestFetchKey(t *testing.T) {
	if FleetKey != fleet.KeyFile {
		t.Errorf("FleetKey is %s, fleet puts the key to %s", FleetKey, fleet.KeyFile)
	}
	for _, c := range []struct{ name, script, text, hint string }{
		{"no key", "echo 'fleet: find a key: none' >&2; echo 'hint: fleet --enroll' >&2; exit 3", "fleet ended with status 3: find a key: none", "fleet --enroll"},
		{"podman after it", "echo 'fleet: x' >&2; echo 'hint: y' >&2; echo 'time=now level=error' >&2; exit 1", "status 1: x", "y"},
		{"podman", "echo 'Error: no space left' >&2; exit 125", "status 125: Error: no space left", "fleet --getkey shows more"},
		{"silent", "exit 1", "exit status 1", "fleet --getkey shows more"},
		{"only a hint", "echo 'hint: x' >&2; exit 1", "status 1: hint: x", ""},
		{"no file", "exit 0", "id_fleet: no such file", "build the image with fleet"},
	} {
		f, calls := fakeFleet(t, c.script)
		u := &Updater{Fleet: f, Config: Config{PKey: f.Key}}
		err := u.fetchKey(t.Context())
		var e *cli.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "get key "+f.Key+": ") || !strings.Contains(err.Error(), c.text) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: fetchKey = %v, hint of %+v, want %q, %q", c.name, err, e, c.text, c.hint)
		}
		if n := calls(); n != 1 {
			t.Errorf("%s: fleet was called %d times, want once", c.name, n)
		}
	}

	f, calls := fakeFleet(t, "echo key > $key")
	u := &Updater{Fleet: f, Config: Config{PKey: "/another"}}
	if err := u.fetchKey(t.Context()); err != nil || calls() != 0 {
		t.Errorf("fetchKey of another key = %v, %d calls, want none", err, calls())
	}
	u.Config.PKey = f.Key
	for range 2 {
		if err := u.fetchKey(t.Context()); err != nil || calls() != 1 {
			t.Errorf("fetchKey = %v, %d calls, want one", err, calls())
		}
	}
	u.Fleet = Fleet{Program: filepath.Join(t.TempDir(), "none"), Key: "/none/id_fleet"}
	u.Config.PKey = u.Fleet.Key
	if err := u.fetchKey(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("fetchKey without a program = %v", err)
	}
	f, _ = fakeFleet(t, "sleep 1000")
	u = &Updater{Fleet: f, Config: Config{PKey: f.Key}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.fetchKey(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("fetchKey that was interrupted = %v", err)
	}
}

// TestFleetOverSSH checks for an update over a real ssh, with a key that is brought.
func TestFleetOverSSH(t *testing.T) {
	l, s, _ := sshLab(t)
	f, calls := fakeFleet(t, "umask 077; cp "+s.Key+" $key")
	l.u.Fleet = f
	l.u.Config.PKey = f.Key
	for range 2 {
		res, err := l.u.Check(t.Context(), Choice{})
		l.must(err)
		if !res.Update || calls() != 1 {
			t.Errorf("Check found %+v, fleet was called %d times, want an update and one call", res, calls())
		}
	}
	// A key that the device has made itself, with what OpenSSH makes of its file.
	dir := t.TempDir()
	d := &fleet.Device{State: dir + "/state", Key: dir + "/id_fleet", Registry: dir + "/registry.json"}
	l.must(os.WriteFile(d.Registry, []byte(`{"state": "ok"}`), 0o600))
	own, err := d.Enroll(t.Context(), fleet.Options{})
	l.must(err)
	_, err = d.GetKey(t.Context())
	l.must(err)
	l.u.Fleet.Key, l.u.Config.PKey = d.Key, d.Key
	_, err = l.u.Check(t.Context(), Choice{})
	wantCode(t, "Check with a key that was not enrolled", err, cli.Unreachable, "Permission denied")
	keys := filepath.Join(s.Dir, "authorized_keys")
	line, err := os.ReadFile(keys)
	l.must(err)
	options, _, _ := strings.Cut(string(line), " ssh-ed25519 ")
	l.must(os.WriteFile(keys, []byte(string(line)+options+" "+own.PublicKey+"\n"), 0o644))
	res, err := l.u.Check(t.Context(), Choice{})
	if err != nil || !res.Update {
		t.Errorf("Check with the device's own key = %+v, %v, want an update", res, err)
	}

	bad, calls := fakeFleet(t, "echo 'fleet: no key' >&2; exit 3")
	l.u.Fleet, l.u.Config.PKey = bad, bad.Key
	_, err = l.u.Check(t.Context(), Choice{})
	wantCode(t, "Check without a key", err, cli.Failure, "get key")
	if calls() != 1 {
		t.Errorf("fleet was called %d times, want once", calls())
	}
	if err := l.u.Read(t.Context(), os.Stdout); err == nil || !strings.Contains(err.Error(), "status 3: no key") {
		t.Errorf("Read without a key = %v", err)
	}
}
