package main

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/registrystate"
)

// containerImage has one file, or a link in its place.
func containerImage(t *testing.T, file, text, link string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	h := &tar.Header{Name: file, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}
	if link != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, link, 0
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Cmd: []string{"/none"}})
	}
	if err == nil {
		cf, _ := img.ConfigFile()
		cf = cf.DeepCopy()
		cf.OS, cf.Architecture = "linux", "amd64"
		img, err = mutate.ConfigFile(img, cf)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPodman has a real podman do what it is asked.
func TestPodman(t *testing.T) {
	h := imagestoretest.NewHost(t)
	s := newSystem(t)
	s.at.podman, s.at.patience, s.at.storageConf = h.Command("podman"), 2*time.Second, []string{h.Dir + "/storage.conf"}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(tag string, img v1.Image) {
		t.Helper()
		ref, err := name.ParseReference(tag)
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	conf := "unqualified-search-registries = []\n"
	for _, r := range []string{host, silent.Addr().String(), gone.Addr().String()} {
		conf += "[[registry]]\nlocation = \"" + r + "\"\ninsecure = true\n"
	}
	s.put("registries.conf", conf)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(s.root, "registries.conf"))

	push(host+"/app:1", containerImage(t, "app.yaml", "container: {name: app}\n", ""))
	push(host+"/evil:1", containerImage(t, "evil.yaml", "", "/etc/passwd"))
	s.want("podman pull --uri "+host+"/app:1", cli.OK, "", "Trying to pull")
	s.want("podman pull --uri "+host+"/evil:1", cli.OK, "", "Trying to pull")
	// What podman mounts is seen where it was mounted alone: the program goes there.
	build(t, h.Dir)
	if out, err := h.Try("$D/flake-ctl podman register --info --container " + host + "/app:1"); err != nil || out != "container: {name: app}\n" {
		t.Errorf("info of app: %q, %v", out, err)
	}
	if out, err := h.Try("$D/flake-ctl podman register --info --container " + host + "/evil:1"); err == nil || out != "" || !strings.Contains(err.Error(), "has no file /evil:1.yaml") {
		t.Errorf("info of evil: %q, %v, want that its link is not followed", out, err)
	}
	if out := h.Run("podman image mount"); out != "" {
		t.Errorf("mounted: %s", out)
	}
	s.want("podman pull --uri "+host+"/none:1", cli.Failure, "", "pull "+host+"/none:1: run unshare: exit status 125: ")

	// A container of the same name replaces the one before, of which nothing is left.
	push(host+"/app:1", containerImage(t, "app.yaml", "container: {name: new}\n", ""))
	s.want("podman pull --uri "+host+"/app:1", cli.OK, "", "Trying to pull")
	if got := strings.Fields(h.Run("podman images --all --quiet")); len(got) != 2 {
		t.Errorf("images: %q, want 2", got)
	}

	for _, r := range []net.Listener{silent, gone} {
		start := time.Now()
		s.want("podman pull --uri "+r.Addr().String()+"/app:1", cli.Unreachable, "", "the registry does not answer")
		if took := time.Since(start); took > time.Minute {
			t.Errorf("a registry that is not there: %v", took)
		}
	}

	// What is registered starts, as podman-pilot does it.
	push(host+"/probe:1", containerImage(t, "probe", imagestoretest.Probe(t), ""))
	s.want("podman pull --uri "+host+"/probe:1", cli.OK, "", "Trying to pull")
	s.want("podman register --container "+host+"/probe:1 --app R/bin/my.probe --target /probe --opt \\--cgroups=disabled \\--network=none", cli.OK, "", "")
	r, err := flake.Find(s.at.dir, s.at.shipped, "my.probe")
	if err != nil {
		t.Fatal(err)
	}
	l, err := flake.Decide(r, &flake.Call{Instance: "one", Args: []string{"/prob?", "a b"}},
		flake.Situation{Registry: registrystate.State{OK: true}, Getenv: os.Getenv, Exists: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.Output(t.Context(), command.Cmd{Argv: h.Command(l.Run(host + "/probe:1")...)})
	if err != nil || !strings.HasPrefix(string(out), "/probe 1007") || !strings.HasSuffix(string(out), "\na b none\n") {
		t.Errorf("my.probe prints %q, %v", out, err)
	}
	s.want("podman remove --container "+host+"/probe:1", cli.OK, "", "")

	h.Run("podman save --quiet --output \"$D/app-1.tar\" " + host + "/app:1")
	h.Run("podman rmi --force " + host + "/app:1")
	s.want("podman load --oci "+h.Dir+"/app-", cli.OK, host+"/app:1", "Writing manifest")
	s.put("bad.tar", "no archive")
	s.want("podman load --oci R/bad.tar", cli.Failure, "", "load R/bad.tar: run unshare: exit status 125: ")

	s.want("podman show --format json", cli.OK, "[]\n", "")
	h.Run("podman create --label eos.flake=a.b --label eos.instance=one --name a.b.one " + host + "/app:1")
	s.want("podman register --container "+host+"/app:1 --app R/bin/a.b", cli.OK, "", "")
	s.want("podman show --format csv", cli.OK, "stopped,"+host+"/app:1,R/share/flakes/a.b.yaml\n", "")
	// The containers of a flake go with it, also those that run; others stay.
	h.Run("podman create --name other " + host + "/app:1")
	s.want("podman register --container "+host+"/app:1 --app R/bin/a.b --force --resume", cli.OK, "", "")
	h.Run("podman create --label eos.flake=a.b --label eos.flake.stays=true --name a.b.two " + host + "/app:1")
	s.want("podman register --container "+host+"/app:1 --app R/bin/a.b --force --resume", cli.OK, "", "container a.b.two of the flake before stays")
	s.want("clean", cli.OK, "removed container a.b.one\n", "")
	s.want("podman remove --app R/bin/a.b", cli.OK, "", "")
	if got := h.Run("podman ps --all --format '{{.Names}}'"); got != "other\n" {
		t.Errorf("left: %s", got)
	}
	s.want("podman register --container "+host+"/app:1 --app R/bin/a.b", cli.OK, "", "")
	s.want("podman remove --container "+host+"/app:1", cli.OK, "", "")
	if got := h.Run("podman ps --all --quiet; podman images --quiet " + host + "/app"); got != "" {
		t.Errorf("left: %s", got)
	}
	if left, err := os.ReadDir(s.root + "/bin"); err == nil && len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.want("podman remove --container "+host+"/app:1", cli.Nothing, "", "there is none, and no flake of it")
}
