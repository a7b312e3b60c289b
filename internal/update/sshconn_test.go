package update

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve/restricted/sshdtest"
)

// sshLab is a lab whose server is a real sshd with a key that can do nothing else, and the file
// that it logs to.
func sshLab(t *testing.T) (*lab, *sshdtest.Server, string) {
	t.Helper()
	l := newLab(t)
	l.publish("2")
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/OSInside/eos/cmd/os-update-restricted")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	// The server's user reads the folders of this test.
	for _, dir := range []string{filepath.Dir(bin), bin, filepath.Dir(filepath.Dir(l.repo)), filepath.Dir(l.repo)} {
		l.must(os.Chmod(dir, 0o755))
	}
	log := filepath.Join(bin, "log")
	l.must(os.WriteFile(log, nil, 0o666))
	l.must(os.Chmod(log, 0o666))
	s := sshdtest.Start(t, filepath.Join(bin, "os-update-restricted")+" --repo "+l.repo+" --log "+log)
	s.Client(t, s.KnownHosts)
	l.u.Config = Config{Server: "ssh://" + sshdtest.User + "@127.0.0.1:" + s.Port, Name: "eos", PKey: s.Key}
	return l, s, log
}

// TestOverSSH checks and applies an update through a real ssh.
func TestOverSSH(t *testing.T) {
	l, s, log := sshLab(t)
	res, err := l.u.Check(t.Context(), Choice{})
	l.must(err)
	if !res.Update || res.Available.Version != "2" {
		t.Errorf("Check over ssh found %+v, want version 2", res)
	}
	done, err := l.u.Apply(t.Context(), ApplyOptions{DownloadOnly: true})
	if err != nil || !done.Wrote || done.FetchedBytes == 0 {
		t.Errorf("Apply over ssh = %+v, %v", done, err)
	}
	// One of the check; of the update as many as it may have connections: a request that waits for
	// one takes what is free first, be it one that has ended its range or a new one.
	if n, most := s.Logins(), 1+Parallel+1; n > most {
		t.Errorf("%d logins for a check and an update, want at most %d", n, most)
	}
	b, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(b), "/metadata/timestamp.json") {
		t.Errorf("the server's log: %s, %v", b, err)
	}

	l.u.Config.PKey = s.Stranger
	_, err = l.u.Check(t.Context(), Choice{})
	wantCode(t, "Check with a key that the server does not know", err, cli.Unreachable, "Permission denied")
	l.u.Config.PKey = s.Key
	none := filepath.Join(t.TempDir(), "known_hosts")
	l.must(os.WriteFile(none, nil, 0o600))
	s.Client(t, none)
	_, err = l.u.Check(t.Context(), Choice{})
	wantCode(t, "Check of a server that is not known", err, cli.Unreachable, "Host key verification failed")
}
