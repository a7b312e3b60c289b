package update

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeSystemctl puts a program systemctl into the path.
func fakeSystemctl(t *testing.T, body string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestFailures(t *testing.T) {
	fakeSystemctl(t, `case "$1" in
--failed) echo 'web.service loaded failed failed A web server'; echo 'db.service loaded failed failed';;
list-jobs) echo '12 slow.service start running'; echo '13 later.target start waiting'; echo '14 os-update-commit.service start running';;
esac`)
	got := (&System{}).Failures(t.Context())
	if diff := cmp.Diff([]string{"web.service failed", "db.service failed", "slow.service not finished (start)"}, got); diff != "" {
		t.Error(diff)
	}
	fakeSystemctl(t, "echo 'no bus' >&2; exit 1")
	if got := (&System{}).Failures(t.Context()); len(got) != 2 {
		t.Errorf("Failures without a bus = %q, want both errors", got)
	}
}

func TestJump(t *testing.T) {
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"accepted", `[ "$1" = kexec ] && [ "$SYSTEMCTL_SKIP_AUTO_KEXEC" = 1 ]`, true},
		{"refused", `[ "$1" = kexec ] && exit 1; echo running`, false},
		{"killed because the system goes down", `[ "$1" = kexec ] && kill -TERM $$; echo stopping; exit 1`, true},
	} {
		fakeSystemctl(t, c.body)
		if err := (&System{}).Jump(t.Context()); (err == nil) != c.ok {
			t.Errorf("Jump, %s = %v, want success %v", c.name, err, c.ok)
		}
	}
	fakeSystemctl(t, `[ "$1" = reboot ] || { echo running; exit 1; }`)
	if err := (&System{}).Reboot(t.Context(), false); err != nil {
		t.Errorf("Reboot = %v, want nil", err)
	}
}

func TestForcedReboot(t *testing.T) {
	for _, c := range []struct {
		name, body string
		forced     bool
	}{
		{"a clean stop goes on", `[ "$1" = reboot ] || echo stopping`, false},
		{"stopped by somebody while nothing goes down", `[ "$1" = reboot ] || { echo running; exit 1; }`, true},
		{"no service manager", "exit 1", true},
	} {
		fakeSystemctl(t, c.body)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel) // systemd stops this program as well
		forced := false
		s := &System{restart: func() error { forced = true; return nil }}
		if err := s.Reboot(ctx, true); err != nil || forced != c.forced {
			t.Errorf("Reboot(force), %s = %v, forced %v, want %v", c.name, err, forced, c.forced)
		}
		cancel()
	}
}

func TestOSRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(path, []byte("NAME=x\nIMAGE_ID=eos\nIMAGE_VERSION=\"1.2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st := &Status{}
	st.fromRelease(path)
	if st.Name != "eos" || st.Version != "1.2" {
		t.Errorf("fromRelease = %+v, want eos 1.2", st)
	}
}
