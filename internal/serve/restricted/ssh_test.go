package restricted_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/serve/restricted"
	"github.com/OSInside/eos/internal/serve/restricted/sshdtest"
)

// site is an update server: sshd, a key that is restricted, a repository and image files.
type site struct {
	*sshdtest.Server
	log string
}

// newSite has a key that the line in authorized_keys restricts.
func newSite(t *testing.T) *site { return newSiteWith(t, func(string) []string { return nil }) }

// newServerSite has a key with a line that allows everything, and the configuration of an update
// server.
func newServerSite(t *testing.T) *site {
	return newSiteWith(t, func(command string) []string {
		const file, installed = "../../../os/update-server/etc/ssh/sshd_config.d/20-update-server.conf", "\tForceCommand /usr/bin/os-update-restricted\n"
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(b), installed, "\tForceCommand "+command+"\n", 1)
		// The keys are those of the test.
		text, keys := regexp.MustCompile(`(?m)^\tAuthorizedKeysFile .*\n`).ReplaceAllString(text, ""), strings.Count(text, "\tAuthorizedKeysFile ")
		if !strings.Contains(text, command) || keys != 1 {
			t.Fatalf("%s has no line %q, or %d with files of keys", file, installed, keys)
		}
		return []string{text}
	})
}

// newSiteWith has the key that sshd's further configuration leaves it, which is made for a command.
func newSiteWith(t *testing.T, more func(command string) []string) *site {
	t.Helper()
	bin := t.TempDir()
	dir, err := os.MkdirTemp("", "restricted-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, restricted.Program), "github.com/OSInside/eos/cmd/os-update-restricted")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(bin, restricted.Program))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"repo/metadata/timestamp.json": "{}", "repo/targets/blob": strings.Repeat("0123456789", 100_000), "repo/secret": "secret",
		"images/EOS.raw.dev": strings.Repeat("image", 100_000), "images/EOS.raw": "x", "images/notes.txt": "secret",
		"secret": "secret", "program": string(program), "log": "",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The log is written by the user of the server, and the folder is read by it.
	for p, mode := range map[string]os.FileMode{dir: 0o755, filepath.Join(dir, "log"): 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out.raw": "../secret", "abs.raw": "/etc/passwd", "in.raw": "EOS.raw.dev", "dir.raw": "."} {
		if err := os.Symlink(to, filepath.Join(dir, "images", link)); err != nil {
			t.Fatal(err)
		}
	}
	command := fmt.Sprintf("%s/program --repo %s/repo --images %s/images --log %s/log", dir, dir, dir, dir)
	s := &site{sshdtest.Start(t, command, more(command)...), filepath.Join(dir, "log")}
	s.Client(t, s.KnownHosts)
	return s
}

// ssh runs the real ssh.
func (s *site) ssh(ctx context.Context, key string, args ...string) (stdout string, status int, stderr string) {
	argv := append([]string{"-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-i", key, "-p", s.Port}, args...)
	c := exec.CommandContext(ctx, "ssh", argv...)
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		status = -1
	}
	return out.String(), status, said.String()
}

const dest = sshdtest.User + "@127.0.0.1"

// TestSeed is what devices of the system that this one replaces do.
func TestSeed(t *testing.T) {
	s := newSite(t)
	image := strings.Repeat("image", 100_000)
	for _, c := range []struct {
		command string
		out     string
		status  int
	}{
		{"sudo cat /srv/www/fleet/os-images/EOS.raw.dev", image, 0},
		{"cat /srv/www/fleet/os-images/EOS.raw.dev", image, 0},
		{"cat /srv/www/fleet/os-images/in.raw", image, 0},
		{"test -e /srv/www/fleet/os-images/EOS.raw.dev", "", 0},
		{"sudo test -e /srv/www/fleet/os-images/none.raw.dev", "", 1},
		{"sudo cat /srv/www/fleet/os-images/none.raw.dev", "", 1},
		// Out of the folder leads nothing.
		{"sudo cat /srv/www/fleet/os-images/out.raw", "", 1},
		{"sudo cat /srv/www/fleet/os-images/abs.raw", "", 1},
		{"sudo cat /srv/www/fleet/os-images/dir.raw", "", 1},
		{"sudo cat /srv/www/fleet/os-images/notes.txt", "", 4},
		{"sudo cat /etc/shadow", "", 4},
		{"sudo cat /srv/www/fleet/os-images/EOS.raw.dev; id", "", 4},
		{"test -e /etc/passwd", "", 4},
		{"testparm", "", 4},
		{"id", "", 4},
	} {
		out, status, stderr := s.ssh(t.Context(), s.Key, dest, c.command)
		if out != c.out || status != c.status {
			t.Errorf("%q gave %d bytes, status %d (%s); want %d bytes, status %d", c.command, len(out), status, stderr, len(c.out), c.status)
		}
		if c.status == 4 && !strings.Contains(stderr, restricted.ErrRefused.Error()) {
			t.Errorf("%q says %q, want that it is refused", c.command, stderr)
		}
	}
	log, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`msg=refused`, `command="sudo cat /etc/shadow"`, `command=testparm`, `connection="127.0.0.1 `, `msg=sent`, `file=EOS.raw.dev`, `command="sudo cat /srv/www/fleet/os-images/out.raw"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

// TestNothingElse tries what ssh offers besides commands.
func TestNothingElse(t *testing.T) {
	t.Run("by the line of the key", func(t *testing.T) { nothingElse(t, newSite(t)) })
	t.Run("by the server", func(t *testing.T) { nothingElse(t, newServerSite(t)) })
}

func nothingElse(t *testing.T, s *site) {
	// What it is for works.
	if out, status, stderr := s.ssh(t.Context(), s.Key, dest, "cat /srv/www/fleet/os-images/EOS.raw"); out != "x" || status != 0 {
		t.Errorf("an image gives %q, status %d, %s; want x", out, status, stderr)
	}
	if out, status, _ := s.ssh(t.Context(), s.Key, dest, "id"); status != 4 || out != "" {
		t.Errorf("a command gives %q, status %d; want 4", out, status)
	}
	if out, status, _ := s.ssh(t.Context(), s.Stranger, dest, restricted.Program); status != 255 || out != "" {
		t.Errorf("an unknown key gets %q, status %d; want 255", out, status)
	}
	for what, args := range map[string][]string{
		"a terminal":         {"-tt", dest},
		"sftp":               {"-s", dest, "sftp"},
		"an environment":     {"-o", "SetEnv=LD_PRELOAD=/tmp/x.so", dest, "id"},
		"a forward":          {"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", dest, "id"},
		"a way to elsewhere": {"-W", "127.0.0.1:" + s.Port, dest},
	} {
		if out, status, stderr := s.ssh(t.Context(), s.Key, args...); status == 0 || strings.Contains(out, "uid=") || strings.Contains(out, "SSH-2.0") {
			t.Errorf("%s: status %d, %q, %q; want a failure", what, status, out, stderr)
		}
	}
}

// TestHTTP speaks HTTP over ssh, as os-update does.
func TestHTTP(t *testing.T) {
	s := newSite(t)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		c := exec.Command("ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-i", s.Key, "-p", s.Port, dest, restricted.Program)
		c.Stdin, c.Stdout = theirs, theirs
		if err := c.Start(); err != nil {
			return nil, err
		}
		go func() {
			_ = c.Wait()
			theirs.Close()
		}()
		return ours, nil
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func(path, byteRange string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://server/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if byteRange != "" {
			req.Header.Set("Range", byteRange)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, body.String()
	}
	for _, c := range []struct {
		path, byteRange string
		status          int
		body            string
	}{
		{"metadata/timestamp.json", "", 200, "{}"},
		{"targets/blob", "bytes=500003-500007", 206, "34567"},
		{"targets/blob", "", 200, strings.Repeat("0123456789", 100_000)},
		{"secret", "", 404, "Not Found\n"},
		{"metadata/../secret", "", 404, "Not Found\n"},
		{"metadata/timestamp.json", "", 200, "{}"},
	} {
		if status, body := get(c.path, c.byteRange); status != c.status || body != c.body {
			t.Errorf("GET %s %s = %d, %d bytes; want %d, %d bytes", c.path, c.byteRange, status, len(body), c.status, len(c.body))
		}
	}
	if n := s.Logins(); n != 1 {
		t.Errorf("%d logins for all, want 1", n)
	}
}
