package vm

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
)

// Names of the files in a machine's folder. QEMU runs in the folder and gets them as they
// are here.
const (
	diskFile     = "disk.qcow2"
	registryFile = "registry.qcow2"
	varsFile     = "vars.qcow2"
	tpmDir       = "tpm"
	tpmSocket    = "tpm.sock"
	tpmPid       = "tpm.pid"
	qmpSocket    = "qmp.sock"
	serialSocket = "serial.sock"
	serialLog    = "serial.log"
	qemuLog      = "qemu.log"
	tpmLog       = "tpm.log"
	pidFile      = "qemu.pid"
	stateFile    = "state" // saved memory and devices
	infoFile     = "machine.json"
	lockFile     = "lock"
	consoleLock  = "console.lock"
)

// Paths in the tools tree.
const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Hardware is the part of the command line that differs from machine to machine.
type Hardware struct {
	Name     string
	Folder   string // absolute
	Memory   int64  // bytes, whole MiB
	CPUs     int
	Accel    Accel  // KVM or TCG
	SSHPort  int    // on 127.0.0.1, forwarded to port 22
	MAC      string // of the network card; empty: follows from the name
	LAN      int    // a second card in the network with this port; 0: none
	TPM      bool
	GPU      bool   // a graphics card, whose screen nobody sees
	Disk     string // NBD socket; empty: the overlay in the folder; NoDisk: none
	Registry string // NBD socket; empty: the file in the folder; NoDisk: none
	Restore  string // file with saved memory and devices; empty: power on

	Kernel, Initrd, Append string // boot this instead of what is on the disk
}

// lanGroup is the address of the networks between machines: one that nobody routes (RFC 2365).
const lanGroup = "239.255.69.79"

// NoDisk leaves a disk out.
const NoDisk = "none"

// Args returns QEMU's command line for a machine. The same hardware gives the same
// arguments.
func Args(h Hardware) []string {
	accel := string(h.Accel)
	if h.Accel == TCG {
		accel = "tcg,thread=multi"
	}
	a := []string{
		"qemu-system-x86_64",
		"-name", "guest=" + escape(h.Name),
		"-pidfile", h.Folder + "/" + pidFile,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel, "-cpu", "max",
		"-smp", strconv.Itoa(h.CPUs),
		"-m", fmt.Sprintf("%dM", h.Memory>>20),
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + firmwareCode,
		"-drive", "if=pflash,unit=1,format=qcow2,file=" + varsFile,
	}
	if h.Disk != NoDisk {
		a = append(a, disk("disk", h.Disk, diskFile)...)
		a = append(a, "-device", "virtio-blk-pci,id=vblk0,drive=disk,serial=eos-disk,bootindex=1")
	}
	if h.Registry != NoDisk {
		a = append(a, disk("registry", h.Registry, registryFile)...)
		a = append(a, "-device", "virtio-blk-pci,id=vblk1,drive=registry,serial=eos-registry")
	}
	a = append(a,
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-:22", h.SSHPort),
		"-device", "virtio-net-pci,id=vnet0,netdev=net,romfile=,mac="+cmp.Or(h.MAC, mac(h.Name)),
		"-device", "virtio-rng-pci,id=vrng0",
		"-device", "i6300esb,id=watchdog0", "-action", "watchdog=reset",
	)
	if h.LAN != 0 {
		// Ethernet frames in multicast packets that do not leave this host.
		a = append(a,
			"-netdev", fmt.Sprintf("socket,id=lan,mcast=%s:%d,localaddr=127.0.0.1", lanGroup, h.LAN),
			"-device", "virtio-net-pci,id=vnet1,netdev=lan,romfile=,mac="+mac(h.Name+" lan"),
		)
	}
	if h.TPM {
		a = append(a,
			"-chardev", "socket,id=tpm,path="+tpmSocket,
			"-tpmdev", "emulator,id=tpm,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm",
		)
	}
	if h.GPU {
		a = append(a, "-device", "virtio-gpu-pci,id=vgpu0,romfile=")
	}
	a = append(a,
		"-chardev", "socket,id=serial,path="+serialSocket+",server=on,wait=off,logfile="+serialLog+",logappend=on",
		"-serial", "chardev:serial",
		"-qmp", "unix:"+qmpSocket+",server=on,wait=off",
	)
	if h.Kernel != "" {
		a = append(a, "-kernel", h.Kernel)
		if h.Initrd != "" {
			a = append(a, "-initrd", h.Initrd)
		}
		if h.Append != "" {
			a = append(a, "-append", h.Append)
		}
	}
	if h.Restore != "" {
		// The state is loaded by a command over QMP, which can say what went wrong.
		a = append(a, "-incoming", "defer")
	}
	return a
}

// disk returns the back end of a block device.
func disk(node, nbd, file string) []string {
	if nbd != "" {
		return []string{"-blockdev", "driver=nbd,node-name=" + node + ",server.type=unix,server.path=" + escape(nbd)}
	}
	return []string{"-blockdev", "driver=qcow2,node-name=" + node + ",discard=unmap,file.driver=file,file.discard=unmap,file.filename=" + file}
}

// tpmArgs returns the command line of the TPM, which is given its listening socket as file
// descriptor 3. It ends when QEMU closes the connection.
func tpmArgs() []string {
	return []string{
		"swtpm", "socket", "--tpm2",
		"--tpmstate", "dir=" + tpmDir,
		"--ctrl", "type=unixio,fd=3",
		"--pid", "file=" + tpmPid,
		"--terminate",
	}
}

// escape doubles commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// mac returns a locally administered address that follows from the name, so that a machine
// keeps its address and two machines on one network do not share one.
func mac(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}
