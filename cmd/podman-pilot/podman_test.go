package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/OSInside/eos/internal/fleet"
	"github.com/OSInside/eos/internal/fleet/fleetimage"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// before makes a device of a private mount namespace: the image's part below a /usr that
// cannot be written, an empty /run, a registry on disk; control groups of version 2 alone.
const before = `
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "$D/upper/lib/eos/containers" "$D/upper/lib/eos/flakes" "$D/upper/share/eos" "$D/upper/bin" "$D/work" "$D/state" "$D/store"
tar -C "$D/store" -xf "$D/store.tar"
cp "$D/fleet.yaml" "$D/upper/lib/eos/flakes"
cp "$D/podman-pilot" "$D/upper/bin"
ln -s podman-pilot "$D/upper/bin/fleet"
echo '{"name": "eos", "class": "generic-x86_64", "arch": "amd64", "version": "1.0"}' > "$D/upper/share/eos/build.json"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$D/upper,workdir=$D/work" /usr
mount --bind "$D/store" /usr/lib/eos/containers
mount -o remount,bind,ro "$D/store" /usr/lib/eos/containers
mount -o remount,ro /usr
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/eos /var/lib/eos
mount --bind "$D/state" /var/lib/eos
export CONTAINERS_CONF="$D/containers.conf"
# step NAME COMMAND...
step() {
	name=$1
	shift
	status=0
	"$@" > "$D/$name.out" 2> "$D/$name.err" < /dev/null || status=$?
	echo $status > "$D/$name.status"
}
`

const steps = `
step shared fleet --getkey
step mode stat -c '%a %s' /run/id_fleet
cp /run/id_fleet "$D/key1"
step refused fleet --enroll
echo '{"state": "ok"}' > /run/eos/registry.json
step enroll fleet --enroll --json
step again fleet --enroll
step own fleet --getkey --json
cp /run/id_fleet "$D/key2"
step send fleet --enroll --send "$URL" --insecure
step refusing fleet --enroll --send "$URL/no" --insecure
step usage fleet --nonsense
step help fleet --help
step left podman --root /run/eos/flakes/storage --runroot /run/eos/flakes/run ps -aq
step find find /var/lib/eos /run/eos/flakes -name 'layers.json' -o -name id_ed25519
`

// build makes the static programs of the device.
func buildPrograms(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "../fleet", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
}

// sharedKey is a key for tests, known to everybody.
func sharedKey(t *testing.T) *fleet.Key {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "")
	if err != nil {
		t.Fatal(err)
	}
	k, err := fleet.ParseKey(pem.EncodeToMemory(block))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// putDevice writes what the script makes a device of.
func putDevice(t *testing.T, dir string) *fleet.Key {
	t.Helper()
	buildPrograms(t, dir)
	program, err := os.ReadFile(filepath.Join(dir, "fleet"))
	if err != nil {
		t.Fatal(err)
	}
	key := sharedKey(t)
	img, err := fleetimage.Image("amd64", program, key)
	if err != nil {
		t.Fatal(err)
	}
	store := imagestoretest.Tree{}
	layers, err := imagestore.Write(store, t.TempDir(), []imagestore.Image{{Names: []string{fleetimage.Name}, Image: img}})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	var archive bytes.Buffer
	if err := store.WriteTar(&archive); err != nil {
		t.Fatal(err)
	}
	_, missing := os.Stat(fleetimage.Authorities)
	registration, err := fleetimage.Registration(missing == nil)
	if err != nil {
		t.Fatal(err)
	}
	limits := "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=20000:20000\"]\n"
	for name, data := range map[string][]byte{"store.tar": archive.Bytes(), "fleet.yaml": registration, "containers.conf": []byte(limits)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return key
}

// TestFleet has a real podman start the real container fleet, as an image has it.
func TestFleet(t *testing.T) {
	toolstreetest.NeedProgram(t, "podman")
	toolstreetest.NeedRoot(t)
	dir := t.TempDir()
	key := putDevice(t, dir)
	var sent fleet.Enrolment
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "not expected", http.StatusForbidden)
		} else if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Errorf("the server got %v", err)
		}
	}))
	defer server.Close()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", before+steps)
	cmd.Env = append(os.Environ(), "D="+dir, "URL="+server.URL)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check := func(step string, status int, out, stderr string) string {
		t.Helper()
		got := read(t, dir, step+".status")
		text, complaint := read(t, dir, step+".out"), read(t, dir, step+".err")
		if got != fmt.Sprintln(status) || !strings.Contains(text, out) || !strings.Contains(complaint, stderr) {
			t.Errorf("%s: status %s, %s, %s; want %d, %q, %q", step, got, text, complaint, status, out, stderr)
		}
		if strings.Contains(text+complaint, "PRIVATE KEY") {
			t.Errorf("%s: a private key in the output", step)
		}
		return text
	}
	check("shared", 0, "", key.Fingerprint())
	check("mode", 0, "600 ", "")
	if got := read(t, dir, "key1"); got != string(key.Private()) {
		t.Errorf("the key is %q, want that of the image", got)
	}
	check("refused", 11, "", "the registry is not there")
	var made fleet.Enrolment
	if err := json.Unmarshal([]byte(check("enroll", 0, `"made": true`, "")), &made); err != nil {
		t.Fatal(err)
	}
	if m := made.Machine; m.Image != "eos" || m.Class != "generic-x86_64" || m.Version != "1.0" || m.ID != strings.TrimSpace(read(t, "/etc", "machine-id")) {
		t.Errorf("enrolled as %+v", m)
	}
	check("again", 0, "\n"+made.AuthorizedKey+"\n", "has a key already")
	check("own", 0, made.Fingerprint, "")
	own, err := fleet.LoadKey(filepath.Join(dir, "key2"))
	if err != nil || own.Fingerprint() != made.Fingerprint {
		t.Errorf("the key is %v, %v, want %s", own, err, made.Fingerprint)
	}
	check("send", 0, made.AuthorizedKey, "sent to "+server.URL)
	if sent.AuthorizedKey != made.AuthorizedKey {
		t.Errorf("the server got %+v, want %+v", sent, made)
	}
	check("refusing", 4, made.AuthorizedKey, "403 Forbidden: not expected")
	check("usage", 2, "", "hint: fleet --help")
	check("help", 0, "Usage: fleet", "")
	if left := check("left", 0, "", ""); left != "" {
		t.Errorf("containers are left: %s", left)
	}
	check("find", 0, "/var/lib/eos/fleet/id_ed25519", "")
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
