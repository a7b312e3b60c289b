package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slotimage"
)

// shop is what somebody who publishes has: keys, and an environment.
type shop struct {
	t    *testing.T
	keys string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, keys: t.TempDir()}
	for _, name := range []string{"image", "root", "targets", "online"} {
		if err := key.Generate(s.keys, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := repository.WriteRoot(s.keys, time.Now().Add(repository.RootLifetime)); err != nil {
		t.Fatal(err)
	}
	return s
}

// slot writes a slot image around bytes with a squashfs superblock.
func (s *shop) slot(version, build string) string {
	s.t.Helper()
	const size = 200_000
	data := bytes.Repeat([]byte(version+build+"; "), size/4)[:size]
	clear(data[:96])
	copy(data, "hsqs")
	le := binary.LittleEndian
	le.PutUint32(data[12:], 131072)
	le.PutUint16(data[20:], 1)
	le.PutUint16(data[22:], 17)
	le.PutUint16(data[28:], 4)
	le.PutUint64(data[40:], size)
	for at := 48; at < 96; at += 8 {
		le.PutUint64(data[at:], ^uint64(0))
	}
	name := filepath.Join(s.t.TempDir(), "eos-"+version+".slot")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		s.t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	k, err := key.LoadPrivate(filepath.Join(s.keys, "image.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	m := slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: version, BuildID: build, Built: 1}
	if _, err := slotimage.Assemble(s.t.Context(), f, size, m, k.Key); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// run runs a command and returns its standard output.
func (s *shop) run(ctx context.Context, command func(*cli.Env) *cobra.Command, stderr io.Writer, args ...string) (string, error) {
	var out bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: stderr, Getenv: func(name string) string {
		if name == "EOS_KEYS" {
			return s.keys
		}
		return ""
	}}
	c := command(env)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

func (s *shop) publish(args ...string) (string, error) {
	return s.run(s.t.Context(), newPublishCommand, io.Discard, args...)
}

func TestPublish(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	one := s.slot("1", "a")
	out, err := s.publish("--repo", repo, one)
	if err != nil || !strings.Contains(out, "eos 1 for qemu (amd64) published: 205 kB in 3 chunks") {
		t.Errorf("eos publish = %q, %v", out, err)
	}
	if out, err = s.publish("--repo", repo, one); err != nil || !strings.Contains(out, "is published already") {
		t.Errorf("eos publish again = %q, %v", out, err)
	}
	if out, err = s.publish("--repo", repo, "--json", s.slot("2", "a")); err != nil {
		t.Errorf("eos publish --json = %v", err)
	}
	var pub repository.Publication
	if err := json.Unmarshal([]byte(out), &pub); err != nil || len(pub.Images) != 1 || pub.Images[0].Version != "2" || pub.Versions.Targets != 2 {
		t.Errorf("eos publish --json = %s, %v; want version 2, targets 2", out, err)
	}
	if out, err = s.publish("--repo", repo, "--refresh"); err != nil || !strings.Contains(out, "devices accept this until") {
		t.Errorf("eos publish --refresh = %q, %v", out, err)
	}
}

func TestPublishMistakes(t *testing.T) {
	s, other := newShop(t), newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	good := s.slot("1", "a")
	if _, err := s.publish("--repo", repo, good); err != nil {
		t.Fatal(err)
	}
	flipped := s.slot("3", "a")
	b, err := os.ReadFile(flipped)
	if err != nil {
		t.Fatal(err)
	}
	b[100_000] ^= 1
	if err := os.WriteFile(flipped, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		keys string
		args []string
		code cli.Code
		text string
		hint string
	}{
		{"no repository", s.keys, []string{good}, cli.Usage, "no repository given", "--repo"},
		{"no image", s.keys, []string{"--repo", repo}, cli.Usage, "no slot image given", ".slot"},
		{"no keys", t.TempDir(), []string{"--repo", repo, good}, cli.Failure, "signing key is missing", "eos keys new"},
		{"no keys to refresh", t.TempDir(), []string{"--repo", repo, "--refresh"}, cli.Failure, "signing key is missing", "eos keys new"},
		{"other keys", other.keys, []string{"--repo", repo, other.slot("9", "a")}, cli.Refused, "not one of this repository", "--keys"},
		{"image of other keys", s.keys, []string{"--repo", repo, other.slot("9", "a")}, cli.Unverified, "no accepted key", "eos keys list"},
		{"not a repository", s.keys, []string{"--repo", s.keys, good}, cli.Failure, "not a repository", "--repo"},
		{"nothing to refresh", s.keys, []string{"--repo", filepath.Join(t.TempDir(), "none"), "--refresh"}, cli.Failure, "no such file", ""},
		{"same version", s.keys, []string{"--repo", repo, s.slot("1", "b")}, cli.Refused, "published already", "raise the version"},
		{"flipped bit", s.keys, []string{"--repo", repo, flipped}, cli.Unverified, "publish " + flipped, "damaged"},
		{"missing file", s.keys, []string{"--repo", repo, good + "x"}, cli.Failure, "no such file", ""},
		{"not an image", s.keys, []string{"--repo", repo, filepath.Join(s.keys, "root.json")}, cli.Unverified, "slot is empty", ".slot"},
	} {
		s.keys = test.keys
		_, err := s.publish(test.args...)
		var coded *cli.Error
		if !errors.As(err, &coded) || coded.Code != test.code || !strings.Contains(err.Error(), test.text) || !strings.Contains(coded.Hint, test.hint) {
			t.Errorf("%s: %v (%+v), want code %v, text %q, hint %q", test.name, err, coded, test.code, test.text, test.hint)
		}
	}
}

// lockedBuffer is written by a server and read by a test.
type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

func TestServe(t *testing.T) {
	s := newShop(t)
	repo := filepath.Join(t.TempDir(), "repo")
	if _, err := s.publish("--repo", repo, s.slot("1", "a")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log lockedBuffer
	done := make(chan error, 1)
	go func() {
		_, err := s.run(ctx, newServeCommand, &log, "--repo", repo, "--listen", "127.0.0.1:0", "--json")
		done <- err
	}()
	var first struct{ URL string }
	for first.URL == "" {
		select {
		case err := <-done:
			t.Fatalf("eos serve = %v, log %s", err, log.String())
		case <-time.After(5 * time.Millisecond):
		}
		if line, _, ok := strings.Cut(log.String(), "\n"); ok {
			if err := json.Unmarshal([]byte(line), &first); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := repository.LoadRoot(s.keys)
	if err != nil {
		t.Fatal(err)
	}
	client := &repository.Client{BaseURL: first.URL, HTTP: &http.Client{}, RootJSON: root}
	cat, _, err := client.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if img, ok := cat.Latest("eos", "qemu", "amd64", repository.Stable); !ok || img.Version != "1" {
		t.Errorf("Latest = %q, %v; want 1", img.Version, ok)
	}
	address := strings.TrimSuffix(strings.TrimPrefix(first.URL, "http://"), "/")
	_, err = s.run(t.Context(), newServeCommand, io.Discard, "--repo", repo, "--listen", address)
	var coded *cli.Error
	if !errors.As(err, &coded) || !strings.Contains(coded.Hint, "--listen") {
		t.Errorf("second eos serve on %s = %v, want a hint to --listen", address, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("eos serve interrupted = %v, want no error", err)
	}
	if got := log.String(); !strings.Contains(got, `"path":"/metadata/timestamp.json","status":200`) || !strings.Contains(got, `"msg":"stopped"`) {
		t.Errorf("log lacks the request or the stop:\n%s", got)
	}
	for _, args := range [][]string{{}, {"--repo", s.keys}, {"--repo", filepath.Join(repo, "none")}} {
		if _, err := s.run(t.Context(), newServeCommand, io.Discard, args...); !errors.As(err, &coded) || coded.Hint == "" {
			t.Errorf("eos serve %v = %v, want an error with a hint", args, err)
		}
	}
}

func TestExpiryWarnings(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, test := range []struct {
		root, targets, timestamp time.Duration
		want                     []string
	}{
		{300 * day, 90 * day, 7 * day, nil},
		{30 * day, 30 * day, 2 * day, nil},
		{29*day + 1, 90 * day, 7 * day, []string{"root metadata expires in 29 days (2026-06-30): refresh"}},
		{0, 90 * day, 7 * day, []string{"root metadata has expired"}},
		{-40 * day, 3 * day, 7 * day, []string{"root metadata has expired", "list of images expires in 3 days"}},
		{300 * day, 90 * day, 2*day - 1, []string{"timestamp expires in 47 hours (2026-06-02): run eos publish --refresh"}},
		{300 * day, 1 * day, -1, []string{"list of images expires in 24 hours", "timestamp has expired, devices refuse it"}},
	} {
		got := expiryWarnings(&repository.Publication{Root: now.Add(test.root), Targets: now.Add(test.targets), Expires: now.Add(test.timestamp)}, now)
		ok := len(got) == len(test.want)
		for i := range test.want {
			ok = ok && strings.Contains(got[i], test.want[i])
		}
		if !ok {
			t.Errorf("expiryWarnings(%v, %v, %v) = %q, want %q", test.root, test.targets, test.timestamp, got, test.want)
		}
	}
	if got := expiryWarnings(&repository.Publication{}, now); got != nil {
		t.Errorf("expiryWarnings(nothing published) = %q, want none", got)
	}
}

// TestExpiryIsSaid publishes what expires soon or has expired: each command that looks says so.
func TestExpiryIsSaid(t *testing.T) {
	s := newShop(t)
	for _, c := range []struct {
		life        time.Duration // of the list of images and the timestamp
		list        []string
		verify, err string
	}{
		{90 * 24 * time.Hour, nil, "", ""},
		{time.Hour, []string{"the list of images expires in 0 hours", "the timestamp expires in 0 hours"}, "the timestamp expires in 0 hours", ""},
		{-time.Hour, []string{"the list of images has expired", "the timestamp has expired"}, "", "targets metadata has expired"},
	} {
		repo := filepath.Join(t.TempDir(), "repo")
		root, err := repository.LoadRoot(s.keys)
		if err != nil {
			t.Fatal(err)
		}
		r, err := repository.Init(t.Context(), repository.Folder(repo), root)
		if err != nil {
			t.Fatal(err)
		}
		ring, err := repository.LoadKeyring(s.keys)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := imageKeys(s.keys)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Publish(t.Context(), []string{s.slot("1", "a")}, repository.PublishOptions{
			Keys: ring, Accepted: accepted, Expiry: repository.Expiry{Targets: c.life, Timestamp: c.life},
		}); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"list", "list --json"} {
			var stderr bytes.Buffer
			out, err := s.run(t.Context(), newRepoCommand, &stderr, append(strings.Fields(command), "--repo", repo)...)
			lines := strings.Count(stderr.String(), "\n")
			for _, want := range c.list {
				if !strings.Contains(stderr.String(), "warning: "+want) {
					t.Errorf("good for %v: eos repo %s says %q, want %q", c.life, command, stderr.String(), want)
				}
			}
			if err != nil || !strings.Contains(out, "eos") || lines != len(c.list) {
				t.Errorf("good for %v: eos repo %s = %q, %v, %d warnings; want the image and %d", c.life, command, out, err, lines, len(c.list))
			}
		}
		var stderr bytes.Buffer
		out, err := s.run(t.Context(), newRepoCommand, &stderr, "verify", "--repo", repo)
		if (err == nil) != (c.err == "") || !strings.Contains(out, c.err) || !strings.Contains(stderr.String(), c.verify) || c.verify == "" && strings.Contains(stderr.String(), "expires in") {
			t.Errorf("good for %v: eos repo verify = %q, %v, %q; want %q, %q", c.life, out, err, stderr.String(), c.err, c.verify)
		}
	}
	// Publishing to it says what publishing does not cure; the rest it has cured.
	var stderr bytes.Buffer
	soon := filepath.Join(t.TempDir(), "keys")
	s.keys = soon
	if err := os.Mkdir(soon, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"image", "root", "targets", "online"} {
		if err := key.Generate(soon, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := repository.WriteRoot(soon, time.Now().Add(10*24*time.Hour+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.run(t.Context(), newPublishCommand, &stderr, "--repo", filepath.Join(t.TempDir(), "repo"), s.slot("1", "a")); err != nil || !strings.Contains(stderr.String(), "warning: the root metadata expires in 10 days") {
		t.Errorf("eos publish under a root of ten days = %v, %q", err, stderr.String())
	}
}
