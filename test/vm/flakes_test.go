package vm_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/vm/vmtest"
)

// flakesVersion is that of the image flakes are tested with: a registry without a TPM, so that it
// boots quickly, and a kernel that knows graphics.
const flakesVersion = "4.0.0"

// pageServer answers a request for whatever page.
const pageServer = `#!/bin/bash
while read -r line && [ "${line%?}" ]; do :; done
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body><h1>EOS</h1>a page on <b>loopback</b></body></html>\n'
`

func (l *lab) flaker(t testing.TB) *built {
	text, err := os.ReadFile(filepath.Join(l.root, "apps/basesystem.yaml"))
	if err == nil {
		err = os.MkdirAll(filepath.Join(l.dir, "images"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dir, "images/basesystem.yaml"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.build(t, flakesVersion, addPackages(registryPackages...), addPackages("linux-image-amd64"),
		func(spec map[string]any) {
			var packages []any
			for _, p := range spec["packages"].([]any) {
				if p != "linux-image-cloud-amd64" {
					packages = append(packages, p)
				}
			}
			spec["packages"] = packages
			// Drivers that an emulated machine has nothing for: they would make the image four times as large.
			remove := spec["remove"].(map[string]any)
			var paths []any
			for _, p := range remove["paths"].([]any) {
				if p != "/usr/lib/modules/*/kernel/drivers/gpu/**" {
					paths = append(paths, p)
				}
			}
			for _, dir := range []string{
				"accel", "atm", "bluetooth", "comedi", "edac", "gpu/drm/amd", "gpu/drm/i915", "gpu/drm/nouveau", "gpu/drm/radeon", "gpu/drm/xe",
				"hwmon", "iio", "isdn", "leds", "media", "mtd", "net/can", "net/ethernet", "net/wireless", "net/usb", "net/wwan",
				"pcmcia", "platform", "power", "rtc", "soundwire", "staging", "target", "thunderbolt",
			} {
				paths = append(paths, "/usr/lib/modules/*/kernel/drivers/"+dir+"/**")
			}
			remove["paths"] = paths
		},
		set("keyfile", "registry", "policy"),
		set([]any{map[string]any{"name": "app"}}, "users"),
		addPackages("uidmap"),
		set([]any{map[string]any{"name": "basesystem", "build": "basesystem.yaml"}}, "containers"),
		addFile(map[string]any{"path": "/usr/libexec/test-server", "mode": "0755", "content": pageServer}),
		set([]any{
			map[string]any{"name": "test-caller.service", "content": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo from a unit | /usr/share/flakes/bin/meow'\n"},
		}, "units", "add"))
}

// app builds an application and returns its archive.
func (l *lab) app(t testing.TB, name string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(l.keys, "app.key")); err != nil { // keys of an earlier run
		if _, err := l.eos("keys", "new", "app"); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(l.dir, "apps", name+".oci.tar")
	if _, err := l.eos("app", "build", filepath.Join(l.root, "apps", name+".yaml"), "--archive", archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// bin is where the commands are that a device registers.
const bin = "/usr/share/flakes/bin/"

func register(t testing.TB, v *vmtest.VM, args string) {
	t.Helper()
	v.MustSSH(t, "flake-ctl podman register --app "+bin+args)
}

// TestFlakes is the tour of the README on a device, and what it leaves out: containers that are commands,
// in pipes and units, with signals, side by side; a service; a compositor on the graphics card; power cuts.
func TestFlakes(t *testing.T) {
	l := theLab(t)
	image := l.flaker(t).Raw
	apps := map[string]string{}
	for _, name := range []string{"lynx", "mosquitto", "weston"} {
		apps[name] = l.app(t, name)
	}
	v := vmtest.Start(t, vmtest.Config{Image: image, Key: l.sshKey(t), DiskSize: registryDisk, GPU: true})
	v.WaitBoot(t)
	settled(t, v)
	for _, name := range []string{"lynx", "mosquitto", "weston"} {
		v.Upload(t, apps[name], "/var/tmp/"+name+".oci.tar")
		v.MustSSH(t, "flake-ctl podman load --oci /var/tmp/"+name+".oci.tar && rm /var/tmp/"+name+".oci.tar")
	}
	t.Run("lynx", func(t *testing.T) { browse(t, v) })
	t.Run("commands", func(t *testing.T) { commands(t, v) })
	t.Run("stays", func(t *testing.T) { stays(t, v) })
	t.Run("user", func(t *testing.T) { ofUser(t, v) })
	t.Run("service", func(t *testing.T) { service(t, v) })
	t.Run("graphics", func(t *testing.T) { graphics(t, v) })
	t.Run("power cuts", func(t *testing.T) {
		p := &flakePlug{lab: l, start: v.Save(t)}
		live(t, &p.done, p.life)
	})
}

// browse looks at a page on loopback with lynx, a delta on the basesystem of the slot.
func browse(t *testing.T, v *vmtest.VM) {
	v.MustSSH(t, "systemd-run --quiet --unit=page systemd-socket-activate --accept --inetd --listen=127.0.0.1:8000 /usr/libexec/test-server")
	register(t, v, `lynx --container lynx --base basesystem --target /usr/bin/lynx --opt '\-ti' '\--network host'`)
	got := v.MustSSH(t, "until ss -Hltn sport = :8000 | grep -q .; do sleep 0.1; done; time "+bin+"lynx -dump http://127.0.0.1:8000/")
	if !strings.Contains(got, "a page on loopback") {
		t.Errorf("lynx -dump:\n%s", got)
	}
	t.Log(got)
	t.Log(v.MustSSH(t, "time "+bin+"lynx -dump http://127.0.0.1:8000/ 2>&1; podman images; du -sm /var/lib/containers/storage"))
}

// commands wants a flake to be what a program is to its callers.
func commands(t *testing.T, v *vmtest.VM) {
	register(t, v, `meow --container basesystem --target /usr/bin/cat --opt '\-i' '\--network none'`)
	register(t, v, `shell --container basesystem --target /usr/bin/bash --opt '\-i' '\--network none'`)
	for _, c := range []struct {
		command, want string
		code          int
	}{
		{"echo 'a  b' | " + bin + "meow", "a  b\n", 0},
		{"echo one | " + bin + "meow | tr a-z A-Z", "ONE\n", 0},
		{bin + "shell -c 'echo out; echo err >&2; exit 7' 2>/dev/null", "out\n", 7},
		{bin + "shell -c 'echo out; echo err >&2; exit 7' 2>&1 >/dev/null", "err\n", 7},
		{bin + "shell -c 'kill -TERM $$'", "", 143},
		{bin + "shell -- -c 'printf %s \"$1\"' x '@scope/a \"b\" %s'", "@scope/a \"b\" %s", 0},
		{bin + "shell -c 'yes' | head -n 1", "y\n", 0},
		{"head -c 50M /dev/zero | tee >(md5sum >/run/sum) | " + bin + "meow | md5sum | cmp - /run/sum && echo same", "same\n", 0},
		{bin + "shell -c 'trap \"echo ended; exit 5\" TERM; echo up; while :; do sleep 0.1; done' >/run/out & p=$!; until grep -q up /run/out; do sleep 0.1; done; kill $p; wait $p; s=$?; cat /run/out; exit $s", "up\nended\n", 5},
		// The launcher sees in podman's signals whether it hands them on: it catches SIGTSTP then.
		{bin + "shell -c 'sleep 1000' & p=$!; for i in $(seq 300); do grep -q 'SigCgt:.*[89a-f]....$' /proc/$(pgrep -x podman)/status && break; sleep 0.1; done 2>/dev/null; [ $i -lt 300 ] || echo never; kill $p; wait $p", "", 143},
		{"for i in $(seq 8); do " + bin + "shell -c 'exit 0' || echo bad & done; wait", "", 0},
		{"systemctl start test-caller && journalctl --sync && journalctl -u test-caller -o cat | grep from", "from a unit\n", 0},
		{"env -i /bin/sh -c '" + bin + "shell -c \"exit 3\"' </dev/null", "", 3}, // as cron does
		{bin + "none", "", 127},
		{"sed -i s,usr/bin/bash,nothing, /usr/share/flakes/shell.yaml; " + bin + "shell 2>/dev/null; s=$?; sed -i s,/nothing,/usr/bin/bash, /usr/share/flakes/shell.yaml; exit $s", "", 127},
	} {
		if r := v.Run(t, c.command, nil); r.Stdout != c.want || r.Code != c.code {
			t.Errorf("%s: exit %d, %q, want %d, %q\n%s", c.command, r.Code, r.Stdout, c.code, c.want, r.Stderr)
		}
	}
	v.MustSSH(t, bin+"shell -c 'sleep 1000' & sleep 3; kill -9 $!")
	wantNothingLeft(t, v)
}

// wantNothingLeft wants no container of a flake that is not to stay, and no process of one.
func wantNothingLeft(t testing.TB, v *vmtest.VM) {
	t.Helper()
	left := `podman ps --all --external --format '{{.Names}} {{.Status}} {{.Labels}}' | grep -v eos.flake.stays; pgrep -ax podman; ls /run/flakes/0 | grep '^pid'`
	v.MustSSH(t, `for i in $(seq 100); do [ -z "$(`+left+`)" ] && exit; sleep 0.2; done; `+left+`; ps ax; exit 1`)
}

// stays calls a container that stays, from many sides at once.
func stays(t *testing.T, v *vmtest.VM) {
	register(t, v, `stay --container basesystem --target /usr/bin/bash --resume --opt '\-i' '\--network none'`)
	v.MustSSH(t, `for i in $(seq 20); do (`+bin+`stay -c 'exit 0' || echo bad) & done; wait; [ "$(podman ps -q --filter label=eos.flake=stay | wc -l)" = 1 ]`)
	v.MustSSH(t, bin+"stay -c 'echo kept >/kept'")
	if r := v.Run(t, "echo in | "+bin+"stay -c 'cat; cat /kept; exit 9'; s=$?; PILOT_DEBUG=1 "+bin+"stay -c 'true' 2>&1 | grep -c crun; exit $s", nil); r.Stdout != "in\nkept\n1\n" || r.Code != 9 {
		t.Errorf("a container that stays: %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	v.MustSSH(t, `podman pause flake.stay; timeout 20 `+bin+`stay -c true 2>/run/said; s=$?; podman unpause flake.stay; cat /run/said >&2; [ $s = 125 ] && grep -q paused /run/said && `+bin+`stay -c true`)
	t.Log(v.MustSSH(t, "time "+bin+"stay -c true; time podman exec flake.stay true"))
	v.MustSSH(t, bin+"stay -c 'exec sleep 4242' & sleep 2; kill -9 $!; sleep 1; ! pgrep -ax sleep | grep 4242")
}

// ofUser lets a user have flakes of his own, in his own store.
func ofUser(t *testing.T, v *vmtest.VM) {
	v.MustSSH(t, "install -d -o 1000 -g 1000 -m 700 /run/user/1000 && podman save --quiet basesystem >/var/tmp/base.tar && chmod 644 /var/tmp/base.tar")
	as := func(script string) string {
		return "cd /; setpriv --reuid 1000 --regid 1000 --clear-groups env -i HOME=/home/app USER=app PATH=$PATH:/home/app/bin XDG_RUNTIME_DIR=/run/user/1000 sh -ec '" + script + "'"
	}
	v.MustSSH(t, as(`flake-ctl init --user && flake-ctl podman --user load --oci /var/tmp/base.tar
		flake-ctl podman --user register --container basesystem --app /home/app/bin/mine --target /usr/bin/bash --opt "\-i" "\--network none"
		flake-ctl podman --user register --container basesystem --app /home/app/bin/mystay --target /usr/bin/bash --resume --opt "\-i" "\--network none"`))
	if r := v.Run(t, as(`echo in | mine -c "cat; id -u; exit 3" || echo $?; mystay -c "echo kept >/kept"; mystay -c "cat /kept; exit 4" || echo $?; PILOT_DEBUG=1 mystay -c true 2>&1 | grep -c nsenter; flake-ctl list --user --format csv | wc -l`), nil); r.Stdout != "in\n0\n3\nkept\n4\n1\n2\n" {
		t.Errorf("flakes of a user: %q, %s", r.Stdout, r.Stderr)
	}
	if r := v.Run(t, as(`out=/run/user/1000/out; mine -c "trap \"echo ended; exit 5\" HUP; echo up; while :; do sleep 0.1; done" >$out & p=$!; until grep -q up $out; do :; done; kill -HUP $p; wait $p || echo $?; cat $out; rm $out`), nil); r.Stdout != "5\nup\nended\n" {
		t.Errorf("a signal to a user's flake: %q, %s", r.Stdout, r.Stderr)
	}
	if r := v.Run(t, as(bin+"shell -c true"), nil); r.Code != 125 || !strings.Contains(r.Stderr, "hint: call it as root: sudo shell") {
		t.Errorf("root's flake of a user: exit %d, %s", r.Code, r.Stderr)
	}
	v.MustSSH(t, as(`mystay %remove -c true; [ -z "$(ls /run/user/1000/flakes | grep pid)" ]`)+"; rm /var/tmp/base.tar")
}

// service runs mosquitto as a unit.
func service(t *testing.T, v *vmtest.VM) {
	register(t, v, `broker --container mosquitto --base basesystem --target /usr/sbin/mosquitto --opt '\--network host' --unit broker --unit-notify`)
	v.MustSSH(t, "systemctl start broker")
	if got := v.MustSSH(t, "systemctl is-active broker; ss -Hltn sport = :1883 | wc -l"); !strings.HasPrefix(got, "active\n") || strings.HasSuffix(got, "\n0") {
		t.Errorf("the service after its start: %s", got)
	}
	v.MustSSH(t, "systemctl restart broker && journalctl --sync && journalctl -u broker -o cat | grep -q 'mosquitto version'")
	v.MustSSH(t, "systemctl stop broker && [ $(systemctl show -P Result broker) = success ] && ! systemctl -q is-failed broker")
	wantNothingLeft(t, v)
}

// graphics has weston draw on the card of the machine.
func graphics(t *testing.T, v *vmtest.VM) {
	v.MustSSH(t, "modprobe virtio-gpu; until [ -e /dev/dri/card0 ]; do sleep 0.1; done")
	register(t, v, `compositor --container weston --target / --opt '\--privileged' '\--volume /dev:/dev' '\--volume /run/udev:/run/udev:ro' '\--network none'`)
	v.MustSSH(t, "systemd-run --quiet --unit=compositor "+bin+"compositor --backend=drm")
	out := v.MustSSH(t, `for i in $(seq 150); do journalctl -u compositor -o cat | grep -q "Output 'Virtual-1' enabled" && break; systemctl -q is-active compositor || break; sleep 0.2; done; journalctl -u compositor -o cat; systemctl is-active compositor; cat /sys/class/drm/card0-*/enabled`)
	if !regexp.MustCompile(`(?s)Output 'Virtual-1' enabled.*\nactive\nenabled$`).MatchString(out) {
		t.Errorf("weston:\n%s", out)
	}
	v.MustSSH(t, "systemctl stop compositor")
	wantNothingLeft(t, v)
}

// flakePlug is what lives share whose power is cut while flakes are at work.
type flakePlug struct {
	*lab
	start *vmtest.Snapshot
	done  atomic.Int64 // cuts
}

// flakeWork starts flakes that go and one that stays, registers new ones, and one again and again.
const flakeWork = `systemd-run --quiet sh -c 'while :; do ` + bin + `shell -c "echo x >/x; sync" </dev/null; done'
	systemd-run --quiet sh -c 'while :; do ` + bin + `stay -c "date >>/dates; sync" </dev/null; done'
	systemd-run --quiet sh -c 'i=0; while i=$((i+1)); do flake-ctl podman register --container basesystem --target /usr/bin/true --app ` + bin + `new$i --opt "\--network none"; ` + bin + `new$((i-2)) && flake-ctl podman remove --app ` + bin + `new$((i-2)); sleep 1; done'
	systemd-run --quiet sh -c 'while :; do flake-ctl podman register --force --container lynx --base basesystem --target /usr/bin/lynx --app ` + bin + `lynx --opt "\-i" --opt "\--network none"; done'`

// flakeWrites bounds the write at which the plug is pulled: what that work makes in half a minute here, and more.
const flakeWrites = 400

// life is one machine; its cuts and the disk's losses come from the seed and its number alone.
func (p *flakePlug) life(t *testing.T, n int64) {
	mix := *seed*1_000_003 + uint64(n) + 1
	rnd := rand.New(rand.NewPCG(mix, 7))
	v := vmtest.Start(t, vmtest.Config{From: p.start, Key: p.sshKey(t), Seed: mix})
	for range perLife {
		if p.done.Add(1) > int64(*cuts) {
			break
		}
		v.MustSSH(t, flakeWork)
		at, before := 1+rnd.Int64N(flakeWrites), v.Disk().Writes()
		select {
		case <-v.Disk().StopAt(at):
		case <-time.After(vmtest.Slow(2 * time.Minute)):
			t.Errorf("flakes at work make %d writes, want %d and the plug pulled in the midst of them", v.Disk().Writes()-before, at)
		}
		v.PowerCut(t)
		v.Boot(t)
		v.WaitBoot(t)
		settled(t, v)
		list := v.MustSSH(t, "flake-ctl list --format csv")
		t.Logf("cut at write %d:\n%s", at, list)
		for _, line := range strings.Split(strings.TrimSpace(list), "\n") {
			field := strings.Split(line, ",")
			if len(field) != 5 || field[1] != "podman" {
				t.Errorf("cut at write %d: flake %q is not whole", at, line)
				continue
			}
			v.MustSSH(t, fmt.Sprintf("[ \"$(readlink %s)\" = /usr/bin/podman-pilot ]", field[3]))
		}
		// What is a service has started by itself; nothing else runs.
		v.MustSSH(t, "systemctl start flakes-boot && systemctl is-active broker && systemctl stop broker")
		wantNothingLeft(t, v)
		v.MustSSH(t, bin+"shell -c true && "+bin+"stay -c 'cat /kept' | grep -q kept && "+bin+"lynx -version | grep -q Lynx")
		v.MustSSH(t, `links=$(find `+bin+` -type l | wc -l); [ $links = $(ls /usr/share/flakes/*.yaml | wc -l) ] || exit 1; ls -A /usr/share/flakes | grep '^\.' | grep -vx '\.lock' && exit 1; for i in `+bin+`new*; do [ -e $i ] || continue; $i && flake-ctl podman remove --app $i || exit 1; done`)
	}
	v.PowerCut(t)
}
