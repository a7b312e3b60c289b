package imagestoretest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// Host is a place to run podman in: a store of ours on a squashfs that is mounted, and a
// writable one.
type Host struct {
	Dir   string
	Store string // squashfs; empty: there is only the writable one

	t testing.TB
}

// NewHost skips the test where podman cannot be run. In CI that is a failure.
func NewHost(t testing.TB) *Host {
	t.Helper()
	toolstreetest.NeedProgram(t, "podman")
	toolstreetest.NeedRoot(t)
	h := &Host{Dir: t.TempDir(), t: t}
	store := "[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n"
	for name, text := range map[string]string{
		// More than the test's own may not be allowed.
		"containers.conf": "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n" +
			"[engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\n",
		"storage.conf": fmt.Sprintf(store+"[storage.options]\nadditionalimagestores = [%q]\n", h.Dir+"/rw", h.Dir+"/run", h.Dir+"/ro"),
	} {
		if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ro/overlay/l", "ro/overlay-images", "ro/overlay-layers", "rw"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ro/overlay-images/images.", "ro/overlay-layers/layers."} {
		if err := errors.Join(os.WriteFile(filepath.Join(h.Dir, name+"json"), []byte("[]"), 0o644), os.WriteFile(filepath.Join(h.Dir, name+"lock"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// Mount makes what is in a tree the store.
func (h *Host) Mount(tree Tree) {
	h.t.Helper()
	tools := toolstreetest.Open(h.t)
	var archive bytes.Buffer
	if err := tree.WriteTar(&archive); err != nil {
		h.t.Fatal(err)
	}
	h.Store = filepath.Join(h.Dir, "store.squashfs")
	os.Remove(h.Store)
	cmd := tools.Command("sqfstar", "-quiet", "-no-progress", "-xattrs", "-reproducible", h.Store)
	cmd.Stdin = &archive
	if err := command.Run(h.t.Context(), cmd); err != nil {
		h.t.Fatal(err)
	}
}

// space makes a mount namespace for podman, whose control groups are only those of version
// 2, and runs what comes after it there.
const space = `
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -z "$2" ] || mount -t squashfs -o loop,ro "$2" "$1/ro"
export CONTAINERS_CONF="$1/containers.conf" D="$1"
[ -n "$CONTAINERS_STORAGE_CONF" ] || export CONTAINERS_STORAGE_CONF="$1/storage.conf"
shift 2
exec "$@"`

// Command returns what runs a program with both stores. An environment that names another
// storage.conf is left as it is.
func (h *Host) Command(argv ...string) []string {
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", space, "sh", h.Dir, h.Store}, argv...)
}

// Run runs a shell script, for which D is the folder of the host, and returns what it prints.
func (h *Host) Run(script string) string {
	h.t.Helper()
	out, err := h.Try(script)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// Try is Run for what may go wrong. Words of the script are not expanded to files.
func (h *Host) Try(script string) (string, error) {
	argv := h.Command("sh", "-efc", script)
	cmd := exec.CommandContext(h.t.Context(), argv[0], argv[1:]...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaint.String())
	}
	return out.String(), err
}

// Probe builds a program for containers, which needs nothing and shows files.
func Probe(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "github.com/OSInside/eos/internal/imagestore/imagestoretest/testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
