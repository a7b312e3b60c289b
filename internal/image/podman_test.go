package image

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
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
)

// TestPodmanSettings lets podman read the settings of an image: short names, and what it
// accepts from where.
func TestPodmanSettings(t *testing.T) {
	h := imagestoretest.NewHost(t)
	img := imagestoretest.Image(t, imagestoretest.Layer(t,
		imagestoretest.Member{Header: tar.Header{Name: "bin/probe", Mode: 0o755}, Content: imagestoretest.Probe(t)}))
	tree := imagestoretest.Tree{}
	layers, err := imagestore.Write(tree, t.TempDir(), []imagestore.Image{{Names: []string{"basesystem"}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	h.Mount(tree)

	tr := newTree()
	if err := tr.layPodman(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"policy.json", "registries.conf"} {
		text, err := tr.read("/etc/containers/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.Dir, file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	there := strings.TrimPrefix(server.URL, "http://") + "/a/b:c"
	ref, err := name.ParseReference(there)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}

	const settings = `export CONTAINERS_REGISTRIES_CONF="$D/registries.conf"; `
	out := h.Run(settings + `podman run --rm --cgroups disabled --network none basesystem /bin/probe /bin/probe`)
	if !strings.Contains(out, "/bin/probe 100755") {
		t.Errorf("podman run basesystem says %q", out)
	}
	const pull = settings + `podman pull --tls-verify=false --signature-policy "$D/policy.json" `
	for what, want := range map[string]string{
		there: "rejected by policy",
		// A name that the short names of this host do not have.
		"eos-no-such-image": "no unqualified-search registries",
	} {
		if out, err := h.Try(pull + what); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("podman pull %s: %q, %v, want an error with %q", what, out, err, want)
		}
	}
	// From a file of the device it is accepted, and shares the layer that is there.
	h.Run(settings + `podman save -q --format oci-archive -o "$D/a.tar" basesystem
		podman pull -q --signature-policy "$D/policy.json" oci-archive:"$D/a.tar"`)
	if out := h.Run(`cat "$D/rw/overlay-layers/layers.json"`); out != "[]" {
		t.Errorf("the writable store has layers that the other one has: %s", out)
	}
}
