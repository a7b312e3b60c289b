package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// writeBase puts beside the image descriptions what keepers are built from: a basesystem for each version
// that says which it is, and a key for the fleet.
func (l *lab) writeBase(t testing.TB) {
	t.Helper()
	dir := filepath.Join(l.dir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(l.root, "apps/basesystem.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"3.0.0", "3.1.0"} {
		more := "\nfiles:\n  - {path: /version, content: \"" + version + "\\n\"}\n"
		if strings.Contains(string(text), "\nfiles:") {
			t.Fatal("apps/basesystem.yaml has files of its own now")
		}
		if err := os.WriteFile(filepath.Join(dir, "base-"+version+".yaml"), append(text, more...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(dir, "id_fleet")
	if _, err := os.Stat(key); err == nil {
		return
	}
	tree, err := toolstree.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Run(t.Context(), tree.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", key)); err != nil {
		t.Fatal(err)
	}
}

// base returns the version that the basesystem says it is of, in a container without a network, made where
// there is none.
func base(t testing.TB, v *vmtest.VM) string {
	t.Helper()
	return v.MustSSH(t, "unshare -n podman run --rm --pull never --network none basesystem cat /version")
}

// offline runs containers of the slot's read-only store beside the registry's, and gets the keys of the
// fleet.
func offline(t *testing.T, v *vmtest.VM) {
	if got := base(t, v); got != "3.0.0" {
		t.Errorf("basesystem is that of %s", got)
	}
	if got := v.MustSSH(t, "podman images --format '{{.Repository}} {{.ReadOnly}}'"); !strings.Contains(got, "localhost/basesystem true") {
		t.Errorf("podman images:\n%s", got)
	}
	if got := v.MustSSH(t, "du -sm /var/lib/containers/storage/overlay | cut -f1"); got != "0" && got != "1" {
		t.Errorf("the registry has %s MiB of layers, so an image was copied", got)
	}
	if out, code := v.SSH(t, "podman run --rm --network none basesystem sh -c 'exit 7'"); code != 7 {
		t.Errorf("exit status of a container: %d\n%s", code, out)
	}

	// A container that is a command, in a pipe and with its own exit status.
	v.MustSSH(t, "flake-ctl podman register --container basesystem --target /bin/cat --app /usr/share/flakes/bin/meow --opt '\\--network none' --opt '\\-i'")
	if got := v.MustSSH(t, "echo from a pipe | /usr/share/flakes/bin/meow - /version"); got != "from a pipe\n3.0.0" {
		t.Errorf("a flake of cat: %q", got)
	}
	if out, code := v.SSH(t, "/usr/share/flakes/bin/meow /nothing"); code != 1 || !strings.Contains(out, "/nothing") {
		t.Errorf("a flake of cat that cannot: exit %d\n%s", code, out)
	}

	v.MustSSH(t, "fleet --getkey")
	shared := v.MustSSH(t, "stat -c %a /run/id_fleet; ssh-keygen -lf /run/id_fleet; rm /run/id_fleet")
	line := v.MustSSH(t, "fleet --enroll")
	if !strings.Contains(line, "restrict") || !strings.Contains(line, v.MustSSH(t, "cat /etc/machine-id")) {
		t.Errorf("fleet --enroll:\n%s", line)
	}
	v.MustSSH(t, "fleet --getkey")
	own := v.MustSSH(t, "stat -c %a /run/id_fleet; ssh-keygen -lf /run/id_fleet; rm /run/id_fleet")
	if !strings.HasPrefix(shared, "600") || !strings.HasPrefix(own, "600") || shared == own {
		t.Errorf("keys of the fleet: %s, of the device: %s", shared, own)
	}
}
