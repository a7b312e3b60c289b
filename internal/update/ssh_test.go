package update

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
)

// fakeSSH puts a program ssh into the path that writes its arguments to a file
// and then runs body.
func fakeSSH(t *testing.T, body string) (argv func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "argv")
	script := fmt.Sprintf("#!/bin/sh\nfor a; do echo \"$a\"; done > %s\n%s\n", log, body)
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestReadOverSSH(t *testing.T) {
	l := newLab(t)
	image := l.build("2")
	want, err := os.ReadFile(image)
	l.must(err)
	l.u.Config = Config{Server: "ssh://eos@updates.example.com:222", Name: "EOS.x86_64", PKey: "/run/key"}

	// What comes is a partition: the image, and whatever is behind it.
	argv := fakeSSH(t, "cat "+image+"; head -c 100000 /dev/zero")
	var out bytes.Buffer
	l.must(l.u.Read(t.Context(), &out))
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("Read over ssh gave %d bytes, want the %d of the image", out.Len(), len(want))
	}
	for _, word := range []string{
		"StrictHostKeyChecking=yes\n", "BatchMode=yes\n", "IdentitiesOnly=yes\n", "-i\n/run/key\n", "-p\n222\n",
		"--\neos@updates.example.com\nsudo cat /srv/www/fleet/os-images/EOS.x86_64.raw.dev\n",
	} {
		if !strings.Contains(argv(), word) {
			t.Errorf("ssh was called with %q, want %q", argv(), word)
		}
	}
	if strings.Contains(argv(), "/dev/null") {
		t.Errorf("ssh was called with %q: host keys must be known", argv())
	}

	flipped := filepath.Join(t.TempDir(), "flipped")
	b := bytes.Clone(want)
	b[600_000] ^= 1
	l.must(os.WriteFile(flipped, b, 0o600))
	stranger := l.build("2", func(s *spec) { s.keys[0] = l.private("stranger") })
	for _, c := range []struct {
		name, body string
		code       cli.Code
		text       string
	}{
		{"nothing", "exit 0", cli.Unverified, "empty"},
		{"short", "head -c 500000 " + image, cli.Unverified, "longer than"},
		{"cut in the hash tree", fmt.Sprintf("head -c %d %s", len(want)-1, image), cli.Unverified, "longer than"},
		{"one bit", "cat " + flipped, cli.Unverified, "block"},
		{"unknown key", "cat " + stranger, cli.Unverified, "no accepted key"},
		{"whole, but ssh is not happy", "cat " + image + "; exit 255", cli.Unreachable, "exit status 255"},
		{"no connection", "echo 'Host key verification failed.' >&2; exit 255", cli.Unreachable, "Host key verification failed."},
	} {
		fakeSSH(t, c.body)
		out.Reset()
		err := l.u.Read(t.Context(), &out)
		wantCode(t, "Read over ssh: "+c.name, err, c.code, c.text)
		if out.Len() > 0 {
			t.Errorf("Read over ssh: %s: gave %d bytes, want none before all is verified", c.name, out.Len())
		}
	}
	fakeSSH(t, "cat "+image+"; exit 1")
	if err := l.u.Read(t.Context(), &out); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("Read when the remote command ends with 1 = %v, want an error", err)
	}
}

func TestSSHArguments(t *testing.T) {
	got := sshArgv(Server{SSH: "eos@host"}, "", "x")
	for _, a := range got {
		if a == "-i" || a == "-p" {
			t.Errorf("sshArgv without key and port = %q", got)
		}
	}
}

func TestReadNeedsNameAndServer(t *testing.T) {
	u := &Updater{Machine: &System{BootFile: "/nonexistent"}, Progress: cli.NoProgress()}
	wantCode(t, "Read without a name", u.Read(t.Context(), nil), cli.Usage, "no image is named")
	u.Config.Name = "x"
	wantCode(t, "Read without a server", u.Read(t.Context(), nil), cli.Usage, "no update server")
	u.Config.Server = "nonsense"
	wantCode(t, "Read from nowhere", u.Read(t.Context(), nil), cli.Usage, "not an address")
}
