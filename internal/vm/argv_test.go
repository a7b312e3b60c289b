package vm

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plainArgs is the command line of an ordinary machine.
const plainArgs = `qemu-system-x86_64
-name guest=test
-pidfile /m/test/qemu.pid
-nodefaults
-no-user-config
-display none
-machine q35
-accel tcg,thread=multi
-cpu max
-smp 2
-m 1024M
-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd
-drive if=pflash,unit=1,format=qcow2,file=vars.qcow2
-blockdev driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.discard=unmap,file.filename=disk.qcow2
-device virtio-blk-pci,id=vblk0,drive=disk,serial=eos-disk,bootindex=1
-blockdev driver=qcow2,node-name=registry,discard=unmap,file.driver=file,file.discard=unmap,file.filename=registry.qcow2
-device virtio-blk-pci,id=vblk1,drive=registry,serial=eos-registry
-netdev user,id=net,hostfwd=tcp:127.0.0.1:10022-:22
-device virtio-net-pci,id=vnet0,netdev=net,romfile=,mac=52:54:00:9f:86:d0
-device virtio-rng-pci,id=vrng0
-device i6300esb,id=watchdog0
-action watchdog=reset
-chardev socket,id=tpm,path=tpm.sock
-tpmdev emulator,id=tpm,chardev=tpm
-device tpm-crb,tpmdev=tpm
-chardev socket,id=serial,path=serial.sock,server=on,wait=off,logfile=serial.log,logappend=on
-serial chardev:serial
-qmp unix:qmp.sock,server=on,wait=off`

func TestArgs(t *testing.T) {
	base := Hardware{Name: "test", Folder: "/m/test", Memory: 1 << 30, CPUs: 2, Accel: TCG, SSHPort: 10022, TPM: true}
	for _, tt := range []struct {
		name        string
		change      func(*Hardware)
		gone, added []string // lines
	}{
		{name: "plain", change: func(*Hardware) {}},
		{
			name:   "kvm, memory, processors, port",
			change: func(h *Hardware) { h.Accel, h.Memory, h.CPUs, h.SSHPort = KVM, 256<<20, 1, 2222 },
			gone: []string{"-accel tcg,thread=multi", "-smp 2", "-m 1024M",
				"-netdev user,id=net,hostfwd=tcp:127.0.0.1:10022-:22"},
			added: []string{"-accel kvm", "-smp 1", "-m 256M", "-netdev user,id=net,hostfwd=tcp:127.0.0.1:2222-:22"},
		},
		{
			name:   "no TPM, no registry",
			change: func(h *Hardware) { h.TPM, h.Registry = false, NoDisk },
			gone: []string{
				"-blockdev driver=qcow2,node-name=registry,discard=unmap,file.driver=file,file.discard=unmap,file.filename=registry.qcow2",
				"-device virtio-blk-pci,id=vblk1,drive=registry,serial=eos-registry",
				"-chardev socket,id=tpm,path=tpm.sock", "-tpmdev emulator,id=tpm,chardev=tpm", "-device tpm-crb,tpmdev=tpm",
			},
		},
		{
			name:   "disks over NBD",
			change: func(h *Hardware) { h.Disk, h.Registry = "/t/a,b.nbd", "/t/r.nbd" },
			gone: []string{
				"-blockdev driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.discard=unmap,file.filename=disk.qcow2",
				"-blockdev driver=qcow2,node-name=registry,discard=unmap,file.driver=file,file.discard=unmap,file.filename=registry.qcow2",
			},
			added: []string{
				"-blockdev driver=nbd,node-name=disk,server.type=unix,server.path=/t/a,,b.nbd",
				"-blockdev driver=nbd,node-name=registry,server.type=unix,server.path=/t/r.nbd",
			},
		},
		{
			name:   "network with others",
			change: func(h *Hardware) { h.LAN = 4000 },
			added: []string{
				"-netdev socket,id=lan,mcast=239.255.69.79:4000,localaddr=127.0.0.1",
				"-device virtio-net-pci,id=vnet1,netdev=lan,romfile=,mac=52:54:00:c5:1f:47",
			},
		},
		{
			name:   "graphics",
			change: func(h *Hardware) { h.GPU = true },
			added:  []string{"-device virtio-gpu-pci,id=vgpu0,romfile="},
		},
		{
			name:   "restored",
			change: func(h *Hardware) { h.Restore = "/s/state" },
			added:  []string{"-incoming defer"},
		},
		{
			name:   "kernel",
			change: func(h *Hardware) { h.Disk, h.Kernel, h.Initrd, h.Append = NoDisk, "/k", "/i", "quiet x=y" },
			gone: []string{
				"-blockdev driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.discard=unmap,file.filename=disk.qcow2",
				"-device virtio-blk-pci,id=vblk0,drive=disk,serial=eos-disk,bootindex=1",
			},
			added: []string{"-kernel /k", "-initrd /i", "-append quiet x=y"},
		},
	} {
		h := base
		tt.change(&h)
		got := lines(Args(h))
		if gone := without(lines(Args(base)), got); !cmp.Equal(gone, tt.gone) {
			t.Errorf("%s: Args lacks %q, want %q", tt.name, gone, tt.gone)
		}
		if added := without(got, lines(Args(base))); !cmp.Equal(added, tt.added) {
			t.Errorf("%s: Args adds %q, want %q", tt.name, added, tt.added)
		}
	}
	if diff := cmp.Diff(plainArgs, strings.Join(lines(Args(base)), "\n")); diff != "" {
		t.Errorf("Args of a plain machine (-want +got):\n%s", diff)
	}
}

// lines puts options and their values on one line each.
func lines(argv []string) []string {
	var out []string
	for i, a := range argv {
		if i == 0 || strings.HasPrefix(a, "-") {
			out = append(out, a)
		} else {
			out[len(out)-1] += " " + a
		}
	}
	return out
}

// without returns the lines of a that are not in b.
func without(a, b []string) []string {
	have := map[string]bool{}
	for _, l := range b {
		have[l] = true
	}
	var out []string
	for _, l := range a {
		if !have[l] {
			out = append(out, l)
		}
	}
	return out
}

func TestSSHArgs(t *testing.T) {
	m := &Machine{Info: Info{Name: "test", SSHPort: 2222}}
	login := strings.Join(m.SSHArgs(SSH{User: "root"}), " ")
	if !strings.HasPrefix(login, "ssh -F none -p 2222 ") || !strings.HasSuffix(login, " root@127.0.0.1") {
		t.Errorf("SSHArgs of a login = %q", login)
	}
	command := strings.Join(m.SSHArgs(SSH{User: "u", Identities: []string{"/a", "/b"}, TTY: true, Command: []string{"ls", "-l"}}), " ")
	if !strings.HasSuffix(command, " -i /a -i /b -t u@127.0.0.1 -- ls -l") {
		t.Errorf("SSHArgs of a command = %q", command)
	}
}
