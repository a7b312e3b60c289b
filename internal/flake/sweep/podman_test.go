package sweep_test

import (
	"archive/tar"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/flake/sweep"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
)

// cuts starts containers and kills podman ever later, while it makes them; two are whole, and
// one more has nothing to do with flakes.
const cuts = `
run() { timeout -s KILL "$1" podman run --rm --network none --cgroups disabled --label eos.flake=app --name "flake.app_.$2" --log-driver none localhost/probe >/dev/null 2>&1 </dev/null || true; }
i=0
while [ $i -lt 25 ]; do
	i=$((i+1))
	run 0.0$((10+i)) $i
	run 0.$((100+i*10)) more$i
done
podman create --network none --label eos.flake=app --name flake.app_.whole localhost/probe >/dev/null
podman create --network none --label eos.flake=app --label eos.flake.stays=true --name flake.app localhost/probe >/dev/null
podman create --network none --name mine localhost/probe >/dev/null
`

// killed starts two containers that wait for somebody to read, and kills one.
const killed = `
mkfifo "$D/fifo"
for name in dead live; do
	podman run --detach --rm --network none --cgroups disabled --label eos.flake=app --name flake.app_.$name --log-driver none \
		--stop-timeout 1 --volume "$D/fifo:/fifo" localhost/probe /bin/probe /fifo=x >/dev/null
done
kill -9 $(podman inspect --format '{{.State.ConmonPid}} {{.State.Pid}}' flake.app_.dead)
`

// TestPodman has a real podman, which is killed while it makes containers.
func TestPodman(t *testing.T) {
	h := imagestoretest.NewHost(t)
	img := imagestoretest.Image(t, imagestoretest.Layer(t, imagestoretest.Member{Header: tar.Header{Name: "bin/probe", Mode: 0o755}, Content: imagestoretest.Probe(t)}))
	store := imagestoretest.Tree{}
	layers, err := imagestore.Write(store, t.TempDir(), []imagestore.Image{{Names: []string{"probe"}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	h.Mount(store)
	s := sweep.Store{Podman: h.Command("podman"), Root: filepath.Join(h.Dir, "rw"), Run: t.TempDir()}

	// In a store without containers podman is not asked.
	idle := sweep.Store{Podman: []string{"/podman/is/not/there"}, Root: s.Root}
	if got, err := idle.Leftovers(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("Leftovers of nothing = %v, %v", got, err)
	}
	h.Run(cuts)
	was := strings.Fields(h.Run("podman ps --all --external --format '{{.Names}}'"))
	t.Logf("%d containers, of half of which there is only storage: %d", len(was), strings.Count(h.Run("podman ps --all --external --format '{{.Status}}'"), "Storage"))
	s.Young = 10 * time.Minute
	if got, err := s.Leftovers(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("Leftovers that are young = %v, %v", got, err)
	}
	s.Young = 0
	got, err := s.Leftovers(t.Context())
	if err != nil || !slices.ContainsFunc(got, func(c sweep.Container) bool { return c.Name == "flake.app_.whole" && c.Flake == "app" }) {
		t.Errorf("Leftovers = %v, %v", got, err)
	}
	left := strings.Fields(h.Run("podman ps --all --external --format '{{.Names}}'"))
	slices.Sort(left)
	if fmt.Sprint(left) != "[flake.app mine]" || len(got) != len(was)-2 {
		t.Errorf("%d removed of %d, left: %s", len(got), len(was), left)
	}
	if got, err := s.OfFlake(t.Context(), "app"); err != nil || len(got) != 1 || got[0].Name != "flake.app" {
		t.Errorf("OfFlake = %v, %v", got, err)
	}
	if left := h.Run("podman ps --all --external --format '{{.Names}}'"); left != "mine\n" {
		t.Errorf("left: %s", left)
	}
	// One whose processes were killed with all that minded them runs, podman says.
	h.Run(killed)
	if got, err := s.Leftovers(t.Context()); err != nil || len(got) != 1 || got[0].Name != "flake.app_.dead" || got[0].State != "running" {
		t.Errorf("Leftovers = %+v, %v, want what was killed", got, err)
	}
	if got, err := s.OfFlake(t.Context(), "app"); err != nil || len(got) != 1 || got[0].Name != "flake.app_.live" {
		t.Errorf("OfFlake = %+v, %v, want what runs", got, err)
	}
	h.Run("podman rm mine")
	if got, err := idle.Leftovers(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("Leftovers of nothing again = %v, %v", got, err)
	}
}
