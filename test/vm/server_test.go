package vm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// On the network between the machines the update server hands out addresses.
const (
	serverAddress = "192.168.77.1"
	lanNetwork    = "[Match]\nPath=pci-0000:00:06.0\n[Network]\nAddress=" + serverAddress + "/24\nDHCPServer=yes\nLinkLocalAddressing=no\n" +
		"[DHCPServer]\nEmitDNS=no\nEmitNTP=no\nEmitRouter=no\nPersistLeases=no\n"
)

// updateServer is an image of the profile.
func (l *lab) updateServer(t testing.TB) *built {
	return l.buildProfile(t, "update-server", "1.0.0+server",
		addFile(map[string]any{"path": "/etc/systemd/network/10-lan.network", "content": lanNetwork}),
		set(map[string]any{"add": []any{"e2fsprogs"}}, "profiles", "update-server", "packages"),
		set("5s", "profiles", "update-server", "server", "interval"))
}

// An update server fetches what is published elsewhere, a disk image and a repository, and a
// device on the same network updates from it: by HTTP, by ssh with a key that can do nothing else,
// and as devices of the older system do. It serves on when it was cut off and its origin is gone.
func TestUpdateServer(t *testing.T) {
	l := theLab(t)
	files := t.TempDir()
	origin := httptest.NewServer(http.FileServer(http.Dir(files)))
	t.Cleanup(origin.Close)
	address := strings.Replace(origin.URL, "127.0.0.1", vmtest.HostAddr, 1)
	repo := filepath.Join(files, "repo")
	publish := func(b *built) {
		t.Helper()
		if _, err := l.eos("publish", b.Slot, "--repo", repo); err != nil {
			t.Fatal(err)
		}
	}
	publish(l.v1(t))
	pack(t, l.v2(t).Raw, filepath.Join(files, "minimal.raw.zst"))

	lan := 20_000 + os.Getpid()%10_000
	s := vmtest.Start(t, vmtest.Config{Image: l.updateServer(t).Raw, Key: l.sshKey(t), RegistrySize: 4 << 30, LAN: lan, Seed: 5})
	device := vmtest.Start(t, vmtest.Config{Image: l.v1(t).Raw, Key: l.sshKey(t), LAN: lan, Seed: 6})
	s.WaitBoot(t)
	settled(t, s) // healthy without its disk
	if out := s.MustSSH(t, "os-update-daemon status"); !strings.Contains(out, "eos-fleet") {
		t.Errorf("status without the disk:\n%s", out)
	}
	s.MustSSH(t, "mkfs.ext4 -q -L eos-fleet /dev/vdb")
	// The disk is taken into service because it is there. The fetch of the start has nothing to do.
	until(t, s, "systemctl is-active os-update-serve && journalctl -q -o cat -u os-fetch | grep Finished")
	s.MustSSH(t, `umask 022
		printf '%s\n' 'mirror: `+address+`/repo' 'update:' '- {image: "`+address+`/minimal.raw.zst", name: minimal.raw}' > /run/os-update.yml
		mount --bind /run/os-update.yml /etc/os-update.yml
		systemctl start os-fetch`)
	s.MustSSH(t, "systemctl is-active os-update-daemon@minimal.timer os-update-daemon@repository.timer")
	until(t, s, `os-update-daemon status --json | grep '"version": "2.0.0"'`) // a timer's fetch may be at work
	checkStatus(t, s)

	// What the origin publishes next, the timer brings.
	device.WaitBoot(t)
	settled(t, device)
	url := "http://" + serverAddress
	until(t, device, "os-update --check --server "+url+"; [ $? = 3 ]")
	publish(l.v2(t))
	until(t, device, "os-update --check --server "+url+"; [ $? = 10 ]")

	t.Run("ssh", func(t *testing.T) { overSSH(t, s, device, l.v2(t)) })

	if out, code := device.SSH(t, "os-update --apply --server "+url); code != 0 && code != vmtest.Lost {
		t.Fatalf("os-update --apply: exit %d\n%s", code, out)
	}
	device.WaitReboot(t, limit)
	wantRunning(t, device, settled(t, device), bootstate.B, "2.0.0")

	origin.Close()
	s.PowerCut(t)
	s.Boot(t)
	s.WaitBoot(t)
	until(t, device, "os-update --check --server "+url+"; [ $? = 3 ]")
	settled(t, s)
	checkStatus(t, s)
}

// until repeats a command until it succeeds.
func until(t *testing.T, v *vmtest.VM, command string) {
	t.Helper()
	v.MustSSH(t, fmt.Sprintf("n=0; until %s; do n=$((n+1)); [ $n -lt %d ] || exit 1; sleep 1; done >/run/until 2>&1 || { cat /run/until; exit 1; }",
		"{ "+command+"; }", int(vmtest.Slow(2*time.Minute).Seconds())))
}

// checkStatus wants the image of version 2 and a repository that devices accept.
func checkStatus(t *testing.T, s *vmtest.VM) {
	t.Helper()
	var st struct {
		Images []struct {
			Name, Version, Error string
			Size                 int64
		}
		Repository struct{ Error string }
		Problems   []string
	}
	out := s.MustSSH(t, "os-update-daemon status --json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("parse status: %v\n%s", err, out)
	}
	if len(st.Images) != 1 || st.Images[0].Version != "2.0.0" || st.Images[0].Size == 0 || st.Repository.Error != "" || len(st.Problems) > 0 {
		t.Errorf("status of the server = %s", out)
	}
}

// overSSH logs in as devices do.
func overSSH(t *testing.T, s, device *vmtest.VM, v2 *built) {
	device.MustSSH(t, "ssh-keygen -q -t ed25519 -N '' -f /run/key")
	pub := device.MustSSH(t, "cat /run/key.pub")
	s.MustSSH(t, "umask 022; echo '"+pub+"' > /srv/www/fleet/authorized_keys/fleet; systemctl restart ssh")
	host := s.MustSSH(t, "cat /srv/www/fleet/ssh/ssh_host_ed25519_key.pub")
	// An image has the server's host key in this file; /etc cannot be written.
	device.MustSSH(t, "cp -a /etc/ssh /run/ssh && echo '"+serverAddress+" "+host+"' > /run/ssh/ssh_known_hosts && mount --bind /run/ssh /etc/ssh")
	refused(t, device, 10, "2.0.0", "--check --server ssh://fleet@"+serverAddress+" --pkey /run/key")

	ssh := func(command string) (string, int) {
		return device.SSH(t, "ssh -n -o BatchMode=yes -i /run/key fleet@"+serverAddress+" '"+command+"'")
	}
	image := "/srv/www/fleet/os-images/minimal.raw"
	if out, code := ssh("test -e " + image + ".dev"); code != 0 {
		t.Errorf("test -e: exit %d, %s", code, out)
	}
	if out, code := ssh("test -e " + image + ".none"); code == 0 {
		t.Errorf("test -e of a file that is not there: exit 0, %s", out)
	}
	f, err := os.Open(v2.Raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, err := table.ByName("p.lxreadonly")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, root.Start, root.Size)); err != nil {
		t.Fatal(err)
	}
	out := device.MustSSH(t, "ssh -n -o BatchMode=yes -i /run/key fleet@"+serverAddress+" 'sudo cat "+image+".dev' | sha256sum")
	if want := hex.EncodeToString(sum.Sum(nil)); !strings.HasPrefix(out, want) {
		t.Errorf("the root partition as devices of the older system stream it: %s, want %s", out, want)
	}
	for _, bad := range []string{"sudo cat /etc/shadow", "test -e / ; id", "bash", "sudo cat " + image + ".dev /etc/passwd"} {
		if out, code := ssh(bad); code != 4 || strings.Contains(out, "root:") || strings.Contains(out, "uid=") {
			t.Errorf("%q: exit %d, want 4\n%s", bad, code, out)
		}
	}
	if log := s.MustSSH(t, "journalctl -q -o cat -t os-update-restricted"); !strings.Contains(log, "refused") || !strings.Contains(log, "/etc/shadow") {
		t.Errorf("the server's log of what it refused:\n%s", log)
	}
}

// pack compresses a disk image.
func pack(t *testing.T, raw, to string) {
	t.Helper()
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	c := tree.Command("zstd", "-q", "-1", "-T0", "-c")
	c.Stdin, c.Stdout = in, out
	if err := errors.Join(command.Run(t.Context(), c), out.Close()); err != nil {
		t.Fatal(err)
	}
}
