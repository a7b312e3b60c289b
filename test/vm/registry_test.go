package vm_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/registry"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// registryPackages are what minimal.yaml lacks for an encrypted registry.
var registryPackages = []any{
	"cryptsetup-bin", "libqrencode4", "libtss2-esys-3.0.2-0t64", "libtss2-mu-4.0.1-0t64", "libtss2-rc0t64",
	"libtss2-tcti-device0t64", "systemd-cryptsetup", "xfsprogs",
	"conmon", "crun", "netavark", "podman", "tini",
}

func addPackages(names ...any) edit {
	return func(spec map[string]any) {
		list, _ := spec["packages"].([]any)
		spec["packages"] = append(append([]any{}, list...), names...)
	}
}

// hold keeps the registry from being started as long as the second disk begins with an H.
const hold = `[Unit]
Before=registry-rw.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '[ "$$(head -c1 /dev/vdb 2>/dev/null)" = H ] || exit 0; echo test: holding >/dev/console; until [ "$$(dd if=/dev/vdb bs=512 count=1 iflag=direct status=none | head -c1)" != H ]; do sleep 0.1; done'
[Install]
WantedBy=multi-user.target
`

// keeper has a registry that is sealed to the TPM.
func (l *lab) keeper(t testing.TB, version string) *built {
	l.writeBase(t)
	return l.build(t, version, addPackages(registryPackages...), set("tpm2", "registry", "policy"), set(true, "registry", "journal"),
		set([]any{map[string]any{"name": "basesystem", "build": "base-" + version + ".yaml"}}, "containers"),
		set(map[string]any{"enroll": true, "key": "id_fleet"}, "fleet"),
		set([]any{"test-hold.service"}, "units", "enable"),
		set([]any{map[string]any{"name": "test-hold.service", "content": hold}}, "units", "add"))
}

const (
	registryDisk = 2 << 30 // the whole disk
	otherDisk    = 512 << 20
)

func (l *lab) keeperConfig(t testing.TB) vmtest.Config {
	t.Helper()
	return vmtest.Config{Image: l.keeper(t, "3.0.0").Raw, Key: l.sshKey(t), DiskSize: registryDisk, RegistrySize: otherDisk}
}

func registryStatus(t testing.TB, v *vmtest.VM) *registry.Status {
	t.Helper()
	out, code := v.SSH(t, "systemctl start registry-rw registry-resize; flake-registry --status --json")
	var st registry.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 && code != 11 {
		t.Fatalf("flake-registry --status: exit %d, %v\n%s", code, err, out)
	}
	if (st.State == registry.StateOK) != (code == 0) {
		t.Errorf("flake-registry --status: exit %d in state %s", code, st.State)
	}
	return &st
}

// wantRegistry wants a registry that works.
func wantRegistry(t testing.TB, v *vmtest.VM) *registry.Status {
	t.Helper()
	st := registryStatus(t, v)
	if st.State != registry.StateOK || st.Copy != "current" || !st.Encrypted {
		t.Fatalf("registry = %+v, want it to work\n%s", st, v.MustSSH(t, "journalctl -u registry-rw -u registry-resize --no-pager"))
	}
	return st
}

// wantDegraded wants a device without a registry that can be reached, says why, and keeps flakes from
// writing to memory.
func wantDegraded(t testing.TB, v *vmtest.VM, problem, hint string) *registry.Status {
	t.Helper()
	st := registryStatus(t, v)
	if st.State != registry.StateDegraded || !strings.Contains(st.Problem, problem) || !strings.Contains(st.ToDo, hint) {
		t.Fatalf("registry = %+v, want problem %q and hint %q", st, problem, hint)
	}
	if out, code := v.SSH(t, "echo x >/var/lib/containers/storage/x"); code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing where the registry was: exit %d, %s", code, out)
	}
	if out := v.MustSSH(t, "ls /run/eos/registry.ok 2>/dev/null || true"); out != "" {
		t.Error("registry.ok is there")
	}
	return st
}

// identity is what no two devices share.
type identity struct{ machine, hostKey, luks string }

func identityOf(t testing.TB, v *vmtest.VM) identity {
	t.Helper()
	return identity{
		v.MustSSH(t, "cat /etc/machine-id"),
		v.MustSSH(t, "ssh-keygen -lf /run/eos/ssh/ssh_host_ed25519_key"),
		v.MustSSH(t, "cryptsetup luksUUID /dev/vda4"),
	}
}

// volumeKey returns a hash of what the registry is encrypted with.
func volumeKey(t testing.TB, v *vmtest.VM) string {
	t.Helper()
	return v.MustSSH(t, `set -e
		key=$(flake-registry --recovery-key 2>/dev/null)
		printf %s "$key" | cryptsetup luksDump -q --dump-volume-key --volume-key-file /run/vk --key-file - /dev/vda4 >/dev/null
		[ "$(stat -c %s /run/vk)" = 64 ]
		sha256sum </run/vk`)
}

// flake runs flake-registry and wants an exit code and words.
func flake(t testing.TB, v *vmtest.VM, code int, words, args string) string {
	t.Helper()
	out, got := v.SSH(t, "flake-registry "+args)
	if got != code || !strings.Contains(out, words) {
		t.Errorf("flake-registry %s: exit %d, want %d with %q\n%s", args, got, code, words, out)
	}
	return out
}

const data = "/var/lib/containers/storage/data"

func wantData(t testing.TB, v *vmtest.VM) {
	t.Helper()
	if got := v.MustSSH(t, "cat "+data); got != "precious" {
		t.Fatalf("data in the registry = %q", got)
	}
}

// wantState wants what is set on the device to count, and the journal to be kept.
func wantState(t testing.TB, v *vmtest.VM) {
	t.Helper()
	v.MustSSH(t, `timeout 60 sh -c 'until ip -4 addr | grep -qF 192.0.2.7; do sleep 1; done' || { networkctl status --all --no-pager; exit 1; }
		ls /var/log/journal/$(cat /etc/machine-id)/system.journal`)
}

// closed takes the built-in registry away under the system, as if it had never been started.
const closed = `set -e
	systemctl stop registry-rw registry-resize registry-journal
	for m in $(awk '$5 ~ "^(/home|/var/lib/(eos|flakes|firecracker|containers/storage)|/var/tmp|/var/log/journal|/run/eos/registry)$" {print $5}' /proc/self/mountinfo | tac); do umount $m; done
	rm -f /run/eos/registry.json /run/eos/registry.ok
	[ ! -e /dev/mapper/eos-registry ] || cryptsetup close eos-registry
`

// The life of a registry on one machine: recovery key, another disk, a full registry during an
// update, rollback, another TPM, a larger disk, a damaged header, a damaged file system.
func TestRegistry(t *testing.T) {
	l := theLab(t)
	v := vmtest.Start(t, vmtest.Config{From: vmtest.Booted(t, l.keeperConfig(t)), Key: l.sshKey(t)})
	v.WaitBoot(t)
	first := wantRegistry(t, v)
	if first.Active != "built-in" || first.Size < registryDisk-900<<20 || strings.Join(first.Slots, " ") != "tpm2" {
		t.Errorf("registry after the first boot = %+v", first)
	}
	t.Log(strings.Join(first.Notes, "\n"))
	me := identityOf(t, v)
	if me.machine != first.MachineID || strings.ReplaceAll(v.Partition(t, registry.Partition).GUID, "-", "") != me.machine {
		t.Errorf("machine id %s, status %s, partition %s", me.machine, first.MachineID, v.Partition(t, registry.Partition).GUID)
	}
	v.MustSSH(t, "echo precious >"+data+"; printf '[Match]\nType=ether\n[Network]\nDHCP=yes\nAddress=192.0.2.7/24\n[DHCPv4]\nClientIdentifier=mac\n' >/var/lib/eos/network/10-test.network; networkctl reload; sync")
	wantState(t, v)
	settled(t, v)

	about := "2>/run/about"
	recovery := strings.TrimSpace(flake(t, v, 0, "-", "--recovery-key "+about))
	if text := v.MustSSH(t, "cat /run/about"); !strings.Contains(text, "█") {
		t.Errorf("the recovery key comes without a QR code:\n%s", text)
	}
	if st := wantRegistry(t, v); strings.Join(st.Slots, " ") != "recovery tpm2" {
		t.Errorf("key slots = %v", st.Slots)
	}
	if out, code := v.SSH(t, "journalctl --no-pager | grep -F -e '"+recovery+"'"); code != 1 {
		t.Errorf("the recovery key in the journal: %s", out)
	}

	t.Run("another disk", func(t *testing.T) {
		flake(t, v, 4, "the system itself", "--setup /dev/vda --yes")
		flake(t, v, 4, "the system itself", "--setup /dev/vda4 --yes")
		flake(t, v, 4, "nobody has agreed", "--setup /dev/vdb </dev/null")
		v.MustSSH(t, "mkfs.xfs -q /dev/vdb && mkdir -p /run/x && mount /dev/vdb /run/x")
		flake(t, v, 4, "mounted or mapped", "--setup /dev/vdb --yes")
		v.MustSSH(t, "umount /run/x")
		flake(t, v, 1, "no registry", "--activate /dev/vdb")
		flake(t, v, 0, "made a registry", "--setup /dev/disk/by-id/virtio-eos-registry --yes")
		flake(t, v, 4, "is a registry already", "--setup /dev/vdb --yes")
		flake(t, v, 4, "is a registry already", "--setup /dev/vdb --wipe /dev/vda --yes")
		flake(t, v, 0, "made a registry", "--setup /dev/vdb --wipe /dev/vdb --yes")
		flake(t, v, 0, "use the registry on", "--activate /dev/disk/by-id/virtio-eos-registry")
		v.MustSSH(t, "! test -e "+data+" && echo other >/var/lib/containers/storage/other")
		flake(t, v, 0, "", "--activate /dev/vda4")
		wantData(t, v)
		flake(t, v, 0, "", "--activate /dev/vdb")
		flake(t, v, 0, "out of use", "--stop")
		wantDegraded(t, v, "was stopped", "--start")
		flake(t, v, 0, "", "--start")
		if st := wantRegistry(t, v); st.Active != "/dev/vdb" || v.MustSSH(t, "cat /var/lib/containers/storage/other") != "other" {
			t.Errorf("active after --start: %s", st.Active)
		}
	})

	t.Run("containers", func(t *testing.T) { offline(t, v) })

	t.Run("update while full", func(t *testing.T) {
		s := l.serve(t, l.publish(t, l.keeper(t, "3.1.0")))
		v.MustSSH(t, `f=/var/tmp/fill; fallocate -l 4G $f 2>/dev/null; dd if=/dev/zero of=$f bs=1M conv=notrunc oflag=append status=none 2>/dev/null
			dd if=/dev/zero of=$f.2 bs=512 status=none 2>/dev/null; sync
			if echo more >/var/tmp/fill.3 && sync && [ -s /var/tmp/fill.3 ]; then df /var/tmp; exit 1; fi`)
		apply(t, v, s)
		v.WaitReboot(t, limit)
		wantRunning(t, v, settled(t, v), bootstate.B, "3.1.0")
		if st := wantRegistry(t, v); st.Active == "built-in" {
			t.Error("after the update the built-in registry is active")
		}
		if now := identityOf(t, v); now != me {
			t.Errorf("identity after the update: %+v, want %+v", now, me)
		}
		v.MustSSH(t, "rm /var/tmp/fill*")
		wantState(t, v)
		if got := v.MustSSH(t, "/usr/share/flakes/bin/meow /version"); got != "3.1.0" {
			t.Errorf("a flake after the update: %q", got)
		}
		flake(t, v, 0, "", "--activate /dev/vda4")
		wantData(t, v)
		if got := base(t, v); got != "3.1.0" {
			t.Errorf("basesystem after the update is that of %s", got)
		}
		v.MustSSH(t, "podman run --quiet --name keep --network none basesystem sh -c 'echo $(cat /version) >/kept'")
	})

	t.Run("rollback through the firmware", func(t *testing.T) {
		v.MustSSH(t, "os-update --rollback")
		v.SSH(t, "os-update --reboot")
		v.WaitReboot(t, limit)
		wantRunning(t, v, settled(t, v), bootstate.A, "3.0.0")
		wantRegistry(t, v)
		if now := identityOf(t, v); now != me {
			t.Errorf("identity after the rollback: %+v, want %+v", now, me)
		}
		if got := base(t, v); got != "3.0.0" {
			t.Errorf("basesystem after the rollback is that of %s", got)
		}
		v.MustSSH(t, "podman start --attach keep")
		if got := v.MustSSH(t, "podman cp keep:/kept - | tar -xO"); got != "3.1.0" {
			t.Errorf("the container of the other slot's basesystem has %q", got)
		}
		v.MustSSH(t, "podman rm keep >/dev/null && podman image prune --force >/dev/null")
		flake(t, v, 0, "", "--activate /dev/vdb")
	})

	t.Run("another TPM", func(t *testing.T) {
		v.PowerOff(t)
		head := make([]byte, 8<<20)
		if _, err := v.Partition(t, registry.Partition).ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		back := v.OtherTPM(t)
		v.Boot(t)
		v.WaitBoot(t)
		settled(t, v) // a committed system does not go back over it
		st := wantDegraded(t, v, "another TPM", "--unlock")
		if st.MachineID != me.machine {
			t.Errorf("machine id without the registry: %s, want %s", st.MachineID, me.machine)
		}
		if key := v.MustSSH(t, "ssh-keygen -lf /run/eos/ssh/ssh_host_ed25519_key"); key == me.hostKey {
			t.Error("the host key is that of the registry")
		}
		now := make([]byte, len(head))
		if _, err := v.Partition(t, registry.Partition).ReadAt(now, 0); err != nil {
			t.Fatal(err)
		}
		if string(now) != string(head) {
			t.Error("the partition was written to")
		}
		// An update has to get through all the same.
		v.MustSSH(t, "fleet --getkey && ssh-keygen -lf /run/id_fleet")
		flake(t, v, 1, "recovery key", "--unlock <<<aaaaaaaa-bbbbbbbb")
		wantDegraded(t, v, "another TPM", "--unlock")
		flake(t, v, 0, "is open", "--unlock <<<"+recovery)
		wantData(t, v) // the other disk is sealed to the TPM as well, so the built-in one is used
		v.PowerOff(t)
		back()
	})

	t.Run("larger disk, the other one gone", func(t *testing.T) {
		flakeDisk := v.Unplug(t)
		_ = flakeDisk
		v.GrowDisk(t, registryDisk+1<<30)
		v.Boot(t)
		v.WaitBoot(t)
		st := wantRegistry(t, v)
		if !strings.Contains(strings.Join(st.Notes, "\n"), "activated cannot be used, the built-in one is: find registry: no device with the UUID") {
			t.Errorf("notes without the other disk: %q", st.Notes)
		}
		if st.Size < first.Size+900<<20 || st.Active != "built-in" {
			t.Errorf("registry on a larger disk = %+v, was %d bytes", st, first.Size)
		}
		if now := identityOf(t, v); now != me {
			t.Errorf("identity: %+v, want %+v", now, me)
		}
		wantData(t, v)
	})

	t.Run("header", func(t *testing.T) {
		v.MustSSH(t, closed+"dd if=/dev/zero of=/dev/vda4 bs=1M count=4 conv=fsync status=none; systemctl start registry-rw")
		wantDegraded(t, v, "zeros", "--restore-header")
		v.MustSSH(t, "cmp -n 4194304 /dev/zero /dev/vda4")
		flake(t, v, 4, "will be replaced", "--restore-header </dev/null")
		flake(t, v, 0, "header is back", "--restore-header --yes")
		wantRegistry(t, v)
		wantData(t, v)
	})

	t.Run("file system", func(t *testing.T) {
		v.MustSSH(t, closed+`systemd-cryptsetup attach eos-registry /dev/vda4 - tpm2-device=auto,headless=true
			tr '\0' x </dev/zero | dd of=/dev/mapper/eos-registry bs=4k count=1 conv=notrunc,fsync status=none iflag=fullblock
			head -c 64M /dev/vda4 | sha256sum >/run/before
			cryptsetup close eos-registry; systemctl start registry-rw`)
		wantDegraded(t, v, "does not mount", "--repair")
		v.MustSSH(t, "head -c 64M /dev/vda4 | sha256sum | cmp - /run/before")
		flake(t, v, 4, "xfs_repair", "--repair </dev/null")
		flake(t, v, 0, "repaired", "--repair --yes")
		wantRegistry(t, v)
		wantData(t, v)
		if now := identityOf(t, v); now != me {
			t.Errorf("identity: %+v, want %+v", now, me)
		}
	})

	t.Run("partition gone", func(t *testing.T) {
		v.MustSSH(t, closed+`cp /run/eos/boot.json /run/boot.json && sed -i 's/"registry": "[^"]*"/"registry": ""/' /run/eos/boot.json; systemctl start registry-rw`)
		wantDegraded(t, v, "no partition p.spare", "partition table")
		v.MustSSH(t, "cp /run/boot.json /run/eos/boot.json && flake-registry --start")
		wantRegistry(t, v)
		wantData(t, v)
	})

	// The other policies, with this image's word for its own replaced and its partition blank again.
	for _, policy := range []string{registry.PolicyKeyfile, registry.PolicyNone} {
		t.Run("policy "+policy, func(t *testing.T) {
			v.MustSSH(t, closed+`echo '{"policy":"`+policy+`"}' >/run/registry.json
				mount --bind /run/registry.json /usr/share/eos/registry.json
				{ printf 'EOS blank registry 1\ndisk %s\n' $(sed -n 's/.*"disk_guid": *"\([^"]*\)".*/\1/p' /run/eos/boot.json); cat /dev/zero; } |
					dd of=/dev/vda4 bs=512 count=1 iflag=fullblock conv=fsync status=none`)
			st := registryStatus(t, v)
			if st.State != registry.StateOK || st.Encrypted != (policy == registry.PolicyKeyfile) {
				t.Fatalf("registry = %+v", st)
			}
			v.MustSSH(t, "! test -e "+data+" && echo precious >"+data)
			v.MustSSH(t, closed)
			if st := registryStatus(t, v); st.State != registry.StateOK {
				t.Fatalf("opened again: %+v", st)
			}
			wantData(t, v)
			if policy == registry.PolicyKeyfile {
				onESP(t, v, "rw", "dd if=/dev/zero of=EFI/eos/registry.key bs=512 count=1 conv=notrunc,fsync status=none")
				v.MustSSH(t, closed)
				wantDegraded(t, v, "lost the registry's key", "--unlock")
			}
		})
	}
	v.PowerOff(t)
}

func (id identity) String() string {
	return fmt.Sprintf("machine %s, host key %s, LUKS2 %s", id.machine, id.hostKey, id.luks)
}
