package main

import (
	"archive/tar"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// testKeys makes keys and returns their private halves.
func testKeys(t *testing.T, dir string, names ...string) map[string]key.Private {
	t.Helper()
	keys := map[string]key.Private{}
	for _, n := range names {
		if err := key.Generate(dir, n); err != nil {
			t.Fatal(err)
		}
		k, err := key.LoadPrivate(filepath.Join(dir, n+".key"))
		if err != nil {
			t.Fatal(err)
		}
		keys[n] = k
	}
	return keys
}

// TestPodmanAcceptsSignatures has the podman of Debian 13 pull what eos pushes, with the settings that
// eos app policy prints.
func TestPodmanAcceptsSignatures(t *testing.T) {
	h, tools := imagestoretest.NewHost(t), toolstreetest.Open(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	there := strings.TrimPrefix(server.URL, "http://")

	keys := testKeys(t, h.Dir, "app", "other")
	files, err := policyFiles(there+"/apps", filepath.Join(h.Dir, "app.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		// Where podman finds them for a caller, here with another home.
		path := strings.Replace(f.Path, "/etc/containers/", h.Dir+"/.config/containers/", 1)
		content := strings.ReplaceAll(f.Content, "/etc/containers/", h.Dir+"/.config/containers/")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img := imagestoretest.Image(t, imagestoretest.Layer(t, imagestoretest.Member{Header: tar.Header{Name: "a"}, Content: "a"}))
	push := func(tag string, img v1.Image, by string) string {
		t.Helper()
		to, err := imagename.Tagged(there + "/" + tag)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := pushApp(t.Context(), img, to, keys[by], false)
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	pull := func(name string) (string, error) {
		c := tools.Command("podman", "pull", "-q", "--tls-verify=false", "--signature-policy", h.Dir+"/.config/containers/policy.json", there+"/"+name)
		argv := h.Command(append([]string{"env", "HOME=" + h.Dir}, c.Argv...)...)
		out, err := command.Output(t.Context(), command.Cmd{Argv: argv})
		return string(out), err
	}
	accepted := func(name string) {
		t.Helper()
		if out, err := pull(name); err != nil {
			t.Errorf("podman pull %s: %s%v", name, out, err)
		}
	}
	refused := func(name, want string) {
		t.Helper()
		if out, err := pull(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("podman pull %s: %s%v, want an error with %q", name, out, err, want)
		}
	}

	// A signed archive is one like any other.
	archive := filepath.Join(h.Dir, "lynx.oci.tar")
	if _, err := writeApp(archive, "lynx", img, keys["app"]); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"podman", "load", "-i", archive}, tools.Command("podman", "load", "-i", archive).Argv} {
		if out, err := command.Output(t.Context(), command.Cmd{Argv: h.Command(argv...)}); err != nil || !strings.Contains(string(out), "localhost/lynx:latest") {
			t.Errorf("%v: %s%v", argv, out, err)
		}
	}

	digest := push("apps/lynx:1.0", img, "app")
	accepted("apps/lynx:1.0")
	accepted("apps/lynx@" + digest)

	// By another key, then by ours as well: signatures stay beside each other.
	second, err := mutate.Config(img, v1.Config{User: "1"})
	if err != nil {
		t.Fatal(err)
	}
	push("apps/lynx:2.0", second, "other")
	refused("apps/lynx:2.0", "failed to verify signature")
	push("apps/lynx:2.0", second, "app")
	accepted("apps/lynx:2.0")

	// Without a signature, and with that of another name: the registry gave a tag to what was
	// signed under one.
	third, err := mutate.Config(img, v1.Config{User: "3"})
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range map[string]v1.Image{"apps/lynx:unsigned": third, "elsewhere/lynx:1.0": img} {
		ref, err := name.ParseReference(there + "/" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	refused("apps/lynx:unsigned", "A signature was required, but no signature exists")
	refused("elsewhere/lynx:1.0", "rejected by policy")
	ref, err := name.ParseReference(there + "/apps/lynx@" + digest)
	if err != nil {
		t.Fatal(err)
	}
	old, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Tag(ref.Context().Tag("3.0"), old); err != nil {
		t.Fatal(err)
	}
	refused("apps/lynx:3.0", `"`+there+`/apps/lynx:1.0" is not accepted`)
	push("apps/lynx:3.0", img, "app")
	accepted("apps/lynx:3.0")
	accepted("apps/lynx:1.0")
}
