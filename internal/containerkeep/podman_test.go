package containerkeep_test

import (
	"archive/tar"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/containerkeep"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
)

type member = imagestoretest.Member

// slot mounts a store whose image basesystem is of a version.
func slot(t *testing.T, h *imagestoretest.Host, program, version string) {
	t.Helper()
	img := imagestoretest.Image(t,
		imagestoretest.Layer(t, member{Header: tar.Header{Name: "bin/probe", Mode: 0o755}, Content: program}),
		imagestoretest.Layer(t, member{Header: tar.Header{Name: "etc/version"}, Content: version}))
	tree := imagestoretest.Tree{}
	layers, err := imagestore.Write(tree, t.TempDir(), []imagestore.Image{{Names: []string{"basesystem"}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	h.Mount(tree)
}

// keep runs Keep on a host. It reads the store of the slot where the test sees it.
func keep(t *testing.T, h *imagestoretest.Host) containerkeep.Plan {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "store")
	h.Run(`cp -a "$D/ro" ` + copied)
	plan, err := containerkeep.Keep(t.Context(), containerkeep.Options{
		Store: copied, Podman: h.Command("podman"), Note: func(s string) { t.Log(s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

const flags = "--cgroups disabled --network none --pull never"

// TestUpdate lets a container and an image live through the exchange of what they stand on.
func TestUpdate(t *testing.T) {
	h, program := imagestoretest.NewHost(t), imagestoretest.Probe(t)
	slot(t, h, program, "one")
	if plan := keep(t, h); !plan.Empty() {
		t.Errorf("Keep with no containers: %+v, want nothing to do", plan)
	}
	h.Run(`podman run ` + flags + ` --name old basesystem /bin/probe /state=mine
		podman run ` + flags + ` --name made basesystem /bin/probe /app=mine
		podman commit -q made app >/dev/null; podman rm made >/dev/null`)
	if plan := keep(t, h); len(plan.Images) != 1 || len(plan.Layers) != 2 {
		t.Errorf("Keep: %+v, want one image and its two layers", plan)
	}
	if plan := keep(t, h); len(plan.Images) != 0 {
		t.Errorf("Keep once more: %+v, want nothing to copy", plan)
	}
	// What pilots do all the time.
	h.Run(`podman image prune --force`)

	slot(t, h, program, "two")
	out := h.Run(`podman run --rm ` + flags + ` basesystem /bin/probe /etc/version
		podman start old >/dev/null; podman wait old
		podman diff old; podman export -o "$D/old.tar" old; tar -xOf "$D/old.tar" etc/version state
		podman run --rm ` + flags + ` app /bin/probe /app /etc/version
		podman images --format '{{.Repository}} {{.ReadOnly}}'`)
	for _, want := range []string{" two <nil>\n", "\n0\n", "A /state\n", "onemine", "/app 100644", " one <nil>\n", "localhost/basesystem true"} {
		if !strings.Contains(out, want) {
			t.Errorf("after the update podman does not say %q:\n%s", want, out)
		}
	}

	// When nothing stands on it any more, the copy goes.
	h.Run(`podman rm old >/dev/null; podman rmi app >/dev/null; podman image prune --force >/dev/null`)
	if out := h.Run(`cat "$D/rw/overlay-layers/layers.json"`); out != "[]" {
		t.Errorf("the writable store still has layers: %s", out)
	}
}

// An image that a flake was put together in is not worth a copy of its base, unless a container
// stands on it.
func TestAssembled(t *testing.T) {
	h, program := imagestoretest.NewHost(t), imagestoretest.Probe(t)
	slot(t, h, program, "one")
	const name = assemble.Names + "x:1"
	h.Run(`podman run ` + flags + ` --name made basesystem /bin/probe /app=mine
		podman commit -q made ` + name + ` >/dev/null; podman rm made >/dev/null`)
	if plan := keep(t, h); !plan.Empty() {
		t.Errorf("Keep with an assembled image: %+v, want nothing to do", plan)
	}
	if got := h.Run(`podman images --quiet --filter readonly=false`); got != "" {
		t.Errorf("images after Keep: %s", got)
	}
	h.Run(`podman run ` + flags + ` --name made basesystem /bin/probe /app=mine
		podman commit -q made ` + name + ` >/dev/null; podman rm made >/dev/null
		podman run ` + flags + ` --name stays ` + name + ` /bin/probe`)
	if plan := keep(t, h); len(plan.Images) != 1 {
		t.Errorf("Keep with a container: %+v, want its base", plan)
	}
	h.Run(`podman start stays >/dev/null; podman wait stays`)
}

// Without Keep the container is lost: this is what it is for.
func TestWithoutKeep(t *testing.T) {
	h, program := imagestoretest.NewHost(t), imagestoretest.Probe(t)
	slot(t, h, program, "one")
	h.Run(`podman run ` + flags + ` --name old basesystem /bin/probe /state=mine`)
	slot(t, h, program, "two")
	if out, err := h.Try(`podman start old`); err == nil {
		t.Errorf("podman start without the layers below: %s, want an error", out)
	}
	if plan := keep(t, h); len(plan.Lost) != 1 {
		t.Errorf("Keep: %+v, want the lost layer", plan)
	}
}
