package vm_test

import (
	"testing"

	"github.com/OSInside/eos/internal/vm/vmtest"
)

// registryPackages are what minimal.yaml lacks for an encrypted registry.
var registryPackages = []any{
	"cryptsetup-bin", "libqrencode4", "libtss2-esys-3.0.2-0t64", "libtss2-mu-4.0.1-0t64", "libtss2-rc0t64",
	"libtss2-tcti-device0t64", "systemd-cryptsetup", "xfsprogs",
}

func addPackages(names ...any) edit {
	return func(spec map[string]any) {
		list, _ := spec["packages"].([]any)
		spec["packages"] = append(append([]any{}, list...), names...)
	}
}

// keeper has a registry that is sealed to the TPM.
func (l *lab) keeper(t testing.TB, version string) *built {
	return l.build(t, version, addPackages(registryPackages...), set("tpm2", "registry", "policy"))
}

const registryDisk = 3 << 30

func TestRegistryTry(t *testing.T) {
	l := theLab(t)
	v := vmtest.Start(t, vmtest.Config{Image: l.keeper(t, "3.0.0").Raw, Key: l.sshKey(t), DiskSize: registryDisk})
	v.WaitBoot(t)
	t.Log(v.MustSSH(t, "until systemctl -q is-active registry-rw || systemctl -q is-failed registry-rw; do sleep 1; done; systemctl status registry-rw registry-resize; flake-registry --status; cat /proc/self/mountinfo | grep regis; lsblk; systemd-analyze blame | head -20; systemctl --failed"))
}
