package main

import (
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
)

// publisher is a repository and its keys.
type publisher struct {
	t          *testing.T
	keys, repo string
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{t: t, keys: t.TempDir(), repo: filepath.Join(t.TempDir(), "repo")}
	for _, name := range []string{"root", "targets", "online"} {
		if err := key.Generate(p.keys, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := repository.WriteRoot(p.keys, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	p.publish(time.Now())
	return p
}

func (p *publisher) root() string { return filepath.Join(p.keys, repository.RootFile) }

// publish signs the list of images, which is empty, at a time.
func (p *publisher) publish(now time.Time) {
	p.t.Helper()
	ring, err := repository.LoadKeyring(p.keys)
	if err != nil {
		p.t.Fatal(err)
	}
	root, err := repository.LoadRoot(p.keys)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := repository.Init(p.t.Context(), repository.Folder(p.repo), root)
	if err == nil {
		_, err = r.Refresh(p.t.Context(), repository.PublishOptions{Keys: ring, Accepted: []ed25519.PublicKey{}, Now: func() time.Time { return now }})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func TestMirror(t *testing.T) {
	p, stranger := newPublisher(t), newPublisher(t)
	origin := httptest.NewServer(http.FileServer(http.Dir(p.repo)))
	defer origin.Close()
	config, copied := filepath.Join(t.TempDir(), "os-update.yml"), filepath.Join(t.TempDir(), "repository")
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mirror := func(args ...string) (int, string, string) {
		return call(append([]string{"mirror", "--config", config, "--repo", copied, "--root", p.root()}, args...)...)
	}
	configure("mirror: " + origin.URL + "\n")
	if code, out, stderr := mirror(); code != 0 || !strings.HasPrefix(out, "mirror: fetched, 0 B of images, good until 20") {
		t.Fatalf("mirror = %d, %q, %q", code, out, stderr)
	}
	if code, out, _ := mirror("--json"); code != 0 || !strings.Contains(out, `"name":"mirror","result":"unchanged"`) || !strings.Contains(out, `"expires":"20`) {
		t.Errorf("mirror --json of the same again = %d, %q", code, out)
	}
	if code, out, _ := call("status", "--config", config, "--images", t.TempDir(), "--repo", copied); code != 0 || !strings.Contains(out, "good until") {
		t.Errorf("status = %d, %q", code, out)
	}

	// fetch does it too, and an image that is away keeps nothing from it.
	p.publish(time.Now())
	configure("mirror: " + origin.URL + "\nupdate:\n- {image: " + origin.URL + "/x, name: x.raw}\n")
	code, out, _ := call("fetch", "--config", config, "--repo", copied, "--root", p.root(), "--images", t.TempDir())
	if code != int(cli.Unreachable) || !strings.HasPrefix(out, "mirror: fetched") || !strings.Contains(out, "x.raw: failed") {
		t.Errorf("fetch = %d, %q", code, out)
	}

	before, err := os.ReadFile(filepath.Join(copied, repository.TimestampName))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text, root string
		code             cli.Code
		words            string
	}{
		{"nothing named", "update: []\n", p.root(), cli.Failure, "hint: give its URL"},
		{"not a repository", "mirror: " + origin.URL + "/metadata\n", p.root(), cli.Unreachable, "is it a repository?"},
		{"other keys", "mirror: " + origin.URL + "\n", stranger.root(), cli.Unverified, "hint: "},
		{"no root", "mirror: " + origin.URL + "\n", p.root() + "x", cli.Failure, "no such file"},
		{"no URL", "mirror: x\n", p.root(), cli.Failure, "os-update.yml:1: mirror"},
	} {
		configure(c.text)
		code, _, stderr := call("mirror", "--config", config, "--repo", copied, "--root", c.root)
		if code != int(c.code) || !strings.Contains(stderr, c.words) {
			t.Errorf("%s: %d, %q; want %d, %q", c.name, code, stderr, c.code, c.words)
		}
	}
	after, err := os.ReadFile(filepath.Join(copied, repository.TimestampName))
	if err != nil || string(before) != string(after) {
		t.Errorf("the copy was changed: %v", err)
	}
	configure("mirror: " + origin.URL + "\n")
	if code, _, stderr := call("mirror", "--config", config, "--repo", filepath.Dir(config), "--root", p.root()); code != int(cli.Refused) || !strings.Contains(stderr, "not a repository") {
		t.Errorf("mirror over something else = %d, %q", code, stderr)
	}
}
