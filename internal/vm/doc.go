// Package vm runs an image as a virtual machine under the tools tree's QEMU.
//
// A machine is a folder: an overlay over the image (which is never written), the firmware's
// variables, the TPM's state, a disk for registries, the serial log and the sockets of the
// running QEMU. The two calls most callers need are [Host.Start], which brings a machine up
// and returns as soon as QEMU runs, and [Machine.Stop] with its rough sister
// [Machine.PowerCut]:
//
//	host := vm.Host{Tree: tree, Machines: dir, Cache: cache}
//	m, err := host.Start(ctx, vm.Config{Name: "minimal", Image: "out/minimal.raw"})
//	conn, err := m.DialConsole()
//	err = m.PowerCut(ctx)
//
// The command line is built by [Args], a pure function. QEMU works inside the machine's
// folder and is told relative names, so that neither the length of the path nor a comma in
// it can break an option or a socket.
//
// A process is never looked for by name. QEMU writes its id into the folder, and it is
// signalled only while its own command line still names that folder; the signal goes through
// a process handle, so an id that is used again by another process is not hit.
//
// [Machine.Save] and [Config.From] save a running machine and start others from it, with
// memory and devices as they were: the machine goes on in about two seconds where a boot
// takes a minute. Several machines can start from one saved state.
//
// A power cut here is the end of QEMU by SIGKILL. What the guest had written but not
// flushed is then in the host's page cache, so nothing is lost: package cutdisk is the disk
// for tests that want a real power cut. Only x86-64 guests with UEFI are supported.
//
// A [Machine] may be used by several goroutines and processes at once; starting one twice
// is refused under a lock in its folder.
package vm
