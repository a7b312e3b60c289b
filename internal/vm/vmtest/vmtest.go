// Package vmtest runs virtual machines in tests: start, expect on the serial console, ssh,
// power cut, saved states.
//
// The calls most tests need:
//
//	func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }
//
//	v := vmtest.Start(t, vmtest.Config{From: vmtest.Booted(t, vmtest.Config{Image: image})})
//	v.MustSSH(t, "os-update --apply")
//	v.PowerCut(t)
//	v.Boot(t)
//	v.Expect(t, `eos-init: slot ([ab]) version`, time.Minute)
//	v.WaitBoot(t)
//
// [Booted] boots an image once per test process and saves the booted machine; a machine
// started from it is there in a second. Boot from cold only what is about booting.
//
// The machine's disks are [cutdisk.Disk], so a power cut loses, keeps and tears what the
// guest did not flush, by [Config.Seed]. Without a seed a new one is taken and logged.
//
// Tests are skipped unless EOS_TEST_VM=1; with EOS_TEST_MUST_RUN or CI=true they always run.
// EOS_TEST_ACCEL is auto, kvm or tcg; EOS_TEST_SLOW multiplies all time-outs, 3 for a host
// that is three times slower. When a test fails, the end of the serial console is printed and
// the whole of it kept in EOS_TEST_LOGS (default: eos-test-logs in the folder for temporary
// files). Machines end with the test, and with the test process however it ends.
//
// All methods that take a [testing.TB] end the test when they fail. A VM is used by one
// goroutine at a time; several VMs may run at once.
package vmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm"
	"github.com/OSInside/eos/internal/vm/cutdisk"
)

// HostAddr is the address under which guests reach servers on the host's loopback.
const HostAddr = "10.0.2.2"

// Config says what machine to start.
type Config struct {
	Image        string    // raw disk image, never written
	From         *Snapshot // go on from there; Image and the sizes are that of the snapshot
	Memory       int64     // bytes; 0: 1 GiB
	CPUs         int       // 0: 2
	DiskSize     int64     // 0: as large as the image
	RegistrySize int64     // of a second, empty disk; 0: none
	GPU          bool      // a graphics card
	LAN          int       // port of a network with other machines; 0: none

	User string // for ssh; empty: root
	Key  string // private key file for ssh; empty: ssh_ed25519 in the keys folder

	Cut  cutdisk.Mode // what a power cut does to writes that were not flushed
	Seed uint64       // for it; 0: a new one

	Kernel, Initrd, Append string // boot this instead of what is on the disk
}

// VM is a machine under test.
type VM struct {
	*vm.Machine
	host     vm.Host
	config   Config
	disk     *served
	registry *served
	rand     *rand.Rand
	console  net.Conn
	serial   serial
	ssh      sshConn
	bootID   string
}

// served is a disk and its server.
type served struct {
	*cutdisk.Disk
	server *cutdisk.Server
	socket string
}

// Slow scales a time-out by EOS_TEST_SLOW.
func Slow(d time.Duration) time.Duration {
	if f, err := strconv.ParseFloat(os.Getenv("EOS_TEST_SLOW"), 64); err == nil && f > 0 {
		return time.Duration(float64(d) * f)
	}
	return d
}

// Need skips a test that starts machines where that is not asked for.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("EOS_TEST_VM") == "" && os.Getenv("EOS_TEST_MUST_RUN") == "" && os.Getenv("CI") != "true" {
		t.Skip("starts virtual machines: set EOS_TEST_VM=1")
	}
}

// root is the folder for machines and saved states of this process: a state is moved from one
// to the other, so they must be on one file system.
var root = sync.OnceValues(func() (string, error) {
	sweep(os.TempDir())
	return os.MkdirTemp("", fmt.Sprintf("%s%d-", rootPrefix, os.Getpid()))
})

const rootPrefix = "eos-vm-"

// sweep removes what test processes left behind that were killed: saved states are large.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, rootPrefix+"*")) // the pattern is well-formed
	for _, path := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), rootPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			os.RemoveAll(path)
		}
	}
}

// used says that root was made.
var used atomic.Bool

// Main runs the tests and then removes what they have saved.
func Main(m *testing.M) int {
	code := m.Run()
	if used.Load() {
		if dir, err := root(); err == nil {
			os.RemoveAll(dir)
		}
	}
	return code
}

var machines atomic.Int64

// newVM returns a machine that does not run yet.
func newVM(t testing.TB, c Config) *VM {
	t.Helper()
	Need(t)
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := toolstree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	used.Store(true)
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	v := &VM{
		host:    vm.Host{Tree: tree, Machines: dir, Cache: cache},
		config:  c,
		rand:    rand.New(rand.NewPCG(c.Seed, 0)),
		Machine: &vm.Machine{Info: vm.Info{Name: fmt.Sprintf("vm%d", machines.Add(1))}},
	}
	v.Folder = filepath.Join(dir, v.Name)
	if err := os.MkdirAll(v.Folder, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.cleanUp(t) })
	return v
}

// Start starts a machine. It returns when the guest begins to boot, or goes on.
func Start(t testing.TB, c Config) *VM {
	t.Helper()
	v := newVM(t, c)
	from := c.From
	switch {
	case from != nil:
		v.config.RegistrySize = from.config.RegistrySize
		v.disk = v.serve(t, "disk", from.disk)
		v.registry = v.serve(t, "registry", from.registry)
		v.bootID = from.bootID
	default:
		v.disk = v.serveImage(t)
		if c.RegistrySize > 0 {
			v.registry = v.serveNew(t, "registry", nil, c.RegistrySize)
		}
	}
	v.start(t, from)
	if from != nil && from.bootID != "" {
		// The guest's clock stood still since the state was saved.
		v.MustSSH(t, fmt.Sprintf("date -u -s @%d", time.Now().Unix()))
	}
	return v
}

// serveImage serves a disk over the image.
func (v *VM) serveImage(t testing.TB) *served {
	t.Helper()
	if v.config.Image == "" {
		return nil
	}
	f, err := os.Open(v.config.Image)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// The file stays open as long as the process: saved states are made of it.
	return v.serveNew(t, "disk", f, max(fi.Size(), v.config.DiskSize))
}

// serve serves a disk over a saved one.
func (v *VM) serve(t testing.TB, name string, saved *cutdisk.Disk) *served {
	t.Helper()
	if saved == nil {
		return nil
	}
	return v.serveNew(t, name, saved, saved.Size())
}

// start starts QEMU on the disks as they are.
func (v *VM) start(t testing.TB, from *Snapshot) {
	t.Helper()
	accel, err := vm.ParseAccel(cmpOr(os.Getenv("EOS_TEST_ACCEL"), "auto"))
	if err != nil {
		t.Fatal(err)
	}
	c := vm.Config{
		Name: v.Name, Memory: v.config.Memory, CPUs: v.config.CPUs, Accel: accel, Bound: true,
		RegistrySize: v.config.RegistrySize, LAN: v.config.LAN, GPU: v.config.GPU, Note: t.Logf,
		Kernel: v.config.Kernel, Initrd: v.config.Initrd, Append: v.config.Append,
	}
	if v.disk != nil {
		c.Disk = v.disk.socket
	}
	if v.registry != nil {
		c.Registry = v.registry.socket
	}
	if from != nil {
		c.From = from.dir
	}
	v.serial.mark(v.path("serial.log"))
	m, err := v.host.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	v.Machine = m
}

func (v *VM) path(file string) string { return filepath.Join(v.Folder, file) }

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Boot powers the machine on again, from cold.
func (v *VM) Boot(t testing.TB) {
	t.Helper()
	if v.Running() {
		t.Fatal("boot: the machine is running")
	}
	v.start(t, nil)
}

// PowerCut pulls the plug: QEMU is killed and the disks lose what their caches lose.
func (v *VM) PowerCut(t testing.TB) {
	t.Helper()
	if err := v.Machine.PowerCut(context.Background()); err != nil {
		t.Fatal(err)
	}
	v.disconnect()
	for _, d := range v.disks() {
		d.PowerOff()
		if err := d.server.Wait(); err != nil {
			t.Fatal(err)
		}
		rep, err := d.Cut(v.config.Cut, v.rand)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("power cut, seed %d: %s: %v", v.config.Seed, filepath.Base(d.socket), rep)
	}
}

// PowerOff presses the power button and waits until the machine is off.
func (v *VM) PowerOff(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Slow(3*time.Minute))
	defer cancel()
	if err := v.Machine.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	v.settle(t)
}

// WaitOff waits until the machine has powered itself off.
func (v *VM) WaitOff(t testing.TB, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Slow(limit))
	defer cancel()
	if err := v.Machine.Wait(ctx); err != nil {
		t.Fatalf("wait until the machine is off: %v", err)
	}
	v.settle(t)
}

// settle puts away what belonged to a QEMU that has ended in good order.
func (v *VM) settle(t testing.TB) {
	t.Helper()
	v.disconnect()
	for _, d := range v.disks() {
		if err := d.server.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// SetLink pulls the network cable, or plugs it in again.
func (v *VM) SetLink(t testing.TB, up bool) {
	t.Helper()
	q, err := v.QMP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Do(t.Context(), "set_link", map[string]any{"name": "net", "up": up}, nil); err != nil {
		t.Fatal(err)
	}
}

func (v *VM) disconnect() {
	v.ssh.close()
	if v.console != nil {
		v.console.Close()
		v.console = nil
	}
}

// cleanUp ends the machine and keeps its serial log if the test has failed.
func (v *VM) cleanUp(t testing.TB) {
	if t.Failed() {
		t.Logf("end of the serial console of %s:\n%s", v.Name, v.ConsoleTail(60))
		if kept, err := v.keepLog(t.Name()); err != nil {
			t.Logf("keep serial log: %v", err)
		} else if kept != "" {
			t.Logf("all of it is in %s", kept)
		}
	}
	v.disconnect()
	if v.Running() {
		if err := v.Machine.PowerCut(context.Background()); err != nil {
			t.Errorf("end machine: %v", err)
		}
	}
	for _, d := range v.disks() {
		d.PowerOff()
		d.server.Close()
		d.Close()
	}
	os.RemoveAll(v.Folder)
}

func (v *VM) keepLog(test string) (string, error) {
	b, err := os.ReadFile(v.path("serial.log"))
	if err != nil || len(b) == 0 {
		return "", err
	}
	dir := cmpOr(os.Getenv("EOS_TEST_LOGS"), filepath.Join(os.TempDir(), "eos-test-logs"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name := strings.NewReplacer("/", "-", " ", "_").Replace(test) + "-" + v.Name + ".log"
	return filepath.Join(dir, name), os.WriteFile(filepath.Join(dir, name), b, 0o644)
}
