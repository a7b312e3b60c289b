package earlyboot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/initramfs"
	"github.com/OSInside/eos/internal/initramfs/kerneltest"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

const (
	diskGUID  = "5d2b1f0e-6a3c-4f6e-9c57-0d7a4c1e2b11"
	otherGUID = "99999999-aaaa-bbbb-cccc-dddddddddddd"
	buildID   = "20260101.1-test"
	bootWords = "console=ttyS0 i6300esb.nowayout=1 eos.panic=1 "
	ourSlot   = "eos.slot=a eos.disk=" + diskGUID
)

// lab holds what all scenarios share; each copies the disk and changes something.
type lab struct {
	tools  *toolstree.Tree
	kernel *kerneltest.Kernel
	init   []byte // eos-init
	data   []byte // content of /data in the slot
	slot   []byte // a good slot image
	offset int64  // of slot a on the disk
	key    ed25519.PrivateKey
	pub    []byte
	dir    string
	disk   string // an image with a good slot a
	initrd string
}

// A scenario is one boot.
type scenario struct {
	name    string
	append  string
	initrd  string                          // other than the lab's
	change  func(t *testing.T, disk []byte) // of the disk
	disk    []string                        // how the disk is attached, other than by virtio
	devices []string                        // more QEMU arguments
	want    []string                        // on the console, in this order
	never   []string
	resets  bool // ends in a reset, not by power off
}

const (
	reached = "test-init: reached, as process 1"
	reset   = "eos-init: resetting the machine in 1 s"
)

// TestBoot boots the real kernel with eos-init from disks that are right, and from disks
// that are wrong in one way each.
func TestBoot(t *testing.T) {
	vmtest.Need(t)
	l := newLab(t)
	flip := func(at func() int64) func(*testing.T, []byte) {
		return func(t *testing.T, disk []byte) { disk[l.offset+at()] ^= 0x10 }
	}
	manifestAt, err := slotimage.Locate(bytes.NewReader(l.slot))
	if err != nil {
		t.Fatal(err)
	}
	inData := int64(bytes.Index(l.slot, l.data[len(l.data)/2:len(l.data)/2+64]))
	if inData < 0 || inData > manifestAt {
		t.Fatal("the random data is not stored as it is in the filesystem")
	}
	secondDisk := filepath.Join(l.dir, "second.raw")
	copyFile(t, l.disk, secondDisk)
	drive := func(file string) []string {
		return []string{"-drive", "if=virtio,format=raw,file=" + file}
	}

	scenarios := []scenario{
		{
			name: "good", append: ourSlot + " COMMIT_UPDATE", devices: []string{"-device", "i6300esb"},
			want: []string{
				"eos-init: watchdog armed, 180 s",
				"eos-init: slot a version 1.0 verified, switching root after",
				reached + `, ["/sbin/init"]`,
				"test-init: /sys/class/watchdog/watchdog0/state = active",
				"test-init: /sys/class/watchdog/watchdog0/timeout = 180",
				"test-init: /sys/class/watchdog/watchdog0/nowayout = 1",
				"test-init: /proc/sys/kernel/panic = 1",
				"test-init: fast hash <nil>",
				"test-init: mount /dev/mapper/eos-root / squashfs ro",
				"test-init: write below / open /made: read-only file system",
				"test-init: write below /run <nil>",
				"test-init: mapper <nil>",
				fmt.Sprintf("test-init: data %d bytes %x <nil>", len(l.data), sha256.Sum256(l.data)),
				"test-init: done",
			},
			never: []string{"remove initramfs", "no hardware watchdog"},
		},
		{
			name: "bit of a file", append: ourSlot, change: flip(func() int64 { return inData }),
			want: []string{"eos-init: no hardware watchdog", reached, "test-init: data I/O error", "test-init: done"},
		},
		{
			// A driver of a bus, then one of what is on the bus.
			name: "SCSI", append: ourSlot, disk: []string{"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"},
			want: []string{`"disk": "/dev/sda"`, `"a": "/dev/sda2"`, "test-init: done"},
		},
		{
			// Shows up by itself, some time after the driver was started.
			name: "NVMe", append: ourSlot, disk: []string{"-device", "nvme,serial=1,drive=disk"},
			want: []string{`"disk": "/dev/nvme0n1"`, `"a": "/dev/nvme0n1p2"`, "test-init: done"},
		},
		{
			// The timer runs across the hand-over and nobody feeds it.
			name: "hang", append: ourSlot + " eos.watchdog=8 test.hang", devices: []string{"-device", "i6300esb"}, resets: true,
			want: []string{"eos-init: watchdog armed, 8 s", reached, "test-init: hanging"}, never: []string{"test-init: done"},
		},
		{
			name: "bit of the manifest", append: ourSlot, change: flip(func() int64 { return manifestAt + 3076 + 32 + 5 }), resets: true,
			want:  []string{"eos-init: cannot boot slot a: signature: /dev/vda2: slot manifest has a wrong signature", reset},
			never: []string{reached},
		},
		{
			name: "bit of the superblock", append: ourSlot, change: flip(func() int64 { return 64 }), resets: true,
			want: []string{"eos-init: cannot boot slot a: ", reset}, never: []string{reached},
		},
		{
			name: "bit of the hash tree's root", append: ourSlot, resets: true,
			change: flip(func() int64 { return manifestAt + 4096 + 8 }),
			want:   []string{"eos-init: cannot boot slot a: root: ", reset}, never: []string{reached},
		},
		{
			name: "other key", append: ourSlot, resets: true,
			change: func(t *testing.T, disk []byte) {
				_, k, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				copy(disk[l.offset:], l.assemble(t, l.slot[:manifestAt], buildID, k))
			},
			want:  []string{"eos-init: cannot boot slot a: signature: /dev/vda2: slot manifest is signed by no accepted key", reset},
			never: []string{reached},
		},
		{
			name: "other build", append: ourSlot, resets: true,
			change: func(t *testing.T, disk []byte) {
				copy(disk[l.offset:], l.assemble(t, l.slot[:manifestAt], "20260202.7", l.key))
			},
			want: []string{
				"eos-init: cannot boot slot a: build id: kernel image build " + buildID + " does not belong to slot a (build 20260202.7)", reset,
			},
			never: []string{reached},
		},
		{
			name: "empty slot", append: "eos.slot=b eos.disk=" + diskGUID, resets: true,
			want: []string{"eos-init: cannot boot slot b: manifest: /dev/vda3: read slot manifest: slot is empty", reset}, never: []string{reached},
		},
		{
			name: "slot not named", append: "eos.disk=" + diskGUID, resets: true,
			want: []string{"eos-init: cannot boot: command line: eos.slot= is missing on the kernel command line (it comes from", reset}, never: []string{reached},
		},
		{
			name: "copy of the disk", append: ourSlot, devices: drive(secondDisk), resets: true,
			want: []string{
				"eos-init: cannot boot slot a: disk: /dev/vda and /dev/vdb have the same GUID " + diskGUID, reset,
			},
			never: []string{reached},
		},
		{
			name: "module missing", append: ourSlot, initrd: l.makeInitrd(t, "noverity.initrd", "dm-verity"), resets: true,
			want:  []string{"eos-init: cannot boot slot a: modules: module dm_verity: neither a module file nor built into the kernel", reset},
			never: []string{reached},
		},
		{
			name: "other disk", append: "eos.slot=a eos.disk=" + otherGUID, resets: true,
			want: []string{
				"eos-init: cannot boot slot a: disk: no such disk with the GUID " + otherGUID + " (eos.disk=); there is /dev/vda: GUID " +
					diskGUID + " (waited 30 s)", reset,
			},
			never: []string{reached},
		},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { l.boot(t, s) })
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{tools: toolstreetest.Open(t), kernel: kerneltest.Open(t), dir: t.TempDir()}
	l.init = build(t, "../../cmd/eos-init")
	l.data = make([]byte, 1<<20)
	if _, err := rand.Read(l.data); err != nil {
		t.Fatal(err)
	}
	var err error
	_, l.key, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if l.pub, err = key.MarshalPublic(l.key.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
	l.slot = l.assemble(t, l.squashfs(t), buildID, l.key)
	l.initrd = l.makeInitrd(t, "initrd", "")

	l.disk = filepath.Join(l.dir, "disk.raw")
	if err := os.WriteFile(l.disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(l.disk, 40<<20); err != nil {
		t.Fatal(err)
	}
	cmd := l.tools.Command("sfdisk", "--quiet", l.disk)
	cmd.Stdin = strings.NewReader("label: gpt\nlabel-id: " + diskGUID + "\n" +
		"size=1M, type=uefi, name=p.UEFI\n" + "size=16M, type=linux, name=p.lxreadonly\n" +
		"size=16M, type=linux, name=p.lxrootclone1\n" + "type=linux, name=p.spare\n")
	if err := command.Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(l.disk)
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.ByName("p.lxreadonly")
	if err != nil {
		t.Fatal(err)
	}
	l.offset = p.Start
	copy(image[l.offset:], l.slot)
	if err := os.WriteFile(l.disk, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return l
}

// build compiles a program the way that programs for images are.
func build(t *testing.T, pkg string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// squashfs makes the filesystem of a slot, laid out like Debian's.
func (l *lab) squashfs(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h *tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"dev", "proc", "run", "sys", "usr", "usr/lib", "usr/lib/systemd", "usr/sbin"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "sbin", Linkname: "usr/sbin", Mode: 0o777}, nil)
	add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/sbin/init", Linkname: "/usr/lib/systemd/systemd", Mode: 0o777}, nil)
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "usr/lib/systemd/systemd", Mode: 0o755}, build(t, "./testdata/init"))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "data", Mode: 0o644}, l.data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(l.dir, "root.squashfs")
	cmd := l.tools.Command("sqfstar", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3", out)
	cmd.Stdin = &buf
	if err := command.Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// assemble makes a slot image of a filesystem.
func (l *lab) assemble(t *testing.T, fs []byte, build string, k ed25519.PrivateKey) []byte {
	t.Helper()
	file := filepath.Join(l.dir, "slot")
	if err := os.WriteFile(file, fs, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := slotimage.Manifest{
		Name: "test", Class: "test", Arch: "amd64", Version: "1.0", BuildID: build, SquashfsLevel: 3, Compressor: "zstd-1.5.7",
	}
	if _, err := slotimage.Assemble(t.Context(), f, int64(len(fs)), m, k); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makeInitrd builds an initramfs, if wanted without one of the modules.
func (l *lab) makeInitrd(t *testing.T, name, without string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(l.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	modules := slices.DeleteFunc(initramfs.DefaultModules(), func(m initramfs.Module) bool { return m.Name == without })
	_, err = initramfs.Build(f, initramfs.Config{
		Init: l.init, Tree: os.DirFS(l.kernel.Modules), KernelVersion: l.kernel.Version, Modules: modules,
		Keys: []initramfs.Key{{Name: "test.pub", PEM: l.pub}}, BuildID: buildID, Epoch: 1767225600,
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// boot runs a scenario to its end and looks at the console.
func (l *lab) boot(t *testing.T, s scenario) {
	disk := filepath.Join(t.TempDir(), "disk.raw")
	image, err := os.ReadFile(l.disk)
	if err != nil {
		t.Fatal(err)
	}
	if s.change != nil {
		s.change(t, image)
	}
	if err := os.WriteFile(disk, image, 0o644); err != nil {
		t.Fatal(err)
	}
	if s.initrd == "" {
		s.initrd = l.initrd
	}
	argv := []string{
		"qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg", "-m", "512", "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", l.kernel.Image, "-initrd", s.initrd, "-append", bootWords + s.append,
		"-drive", "id=disk,format=raw,file=" + disk + ",if=",
	}
	if s.disk == nil {
		argv[len(argv)-1] += "virtio"
	} else {
		argv[len(argv)-1] += "none"
		argv = append(argv, s.disk...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var console bytes.Buffer
	cmd := l.tools.Command(append(argv, s.devices...)...)
	cmd.Stdout = &console
	begin := time.Now()
	err = command.Run(ctx, cmd)
	text := strings.ReplaceAll(console.String(), "\r", "")
	defer func() {
		if t.Failed() {
			t.Logf("console:\n%s", text)
		}
	}()
	if err != nil {
		t.Fatalf("the machine did not end by itself: %v", err)
	}
	t.Logf("%.1f s", time.Since(begin).Seconds())
	if i := strings.Index(text, "eos-init: slot a version"); i >= 0 {
		line, _, _ := strings.Cut(text[i:], "\n")
		t.Log(line)
	}

	rest := text
	for _, w := range s.want {
		i := strings.Index(rest, w)
		if i < 0 {
			t.Errorf("console does not say %q (after what was wanted before it)", w)
			continue
		}
		rest = rest[i+len(w):]
	}
	for _, n := range append(s.never, "Kernel panic", "internal error") {
		if strings.Contains(text, n) {
			t.Errorf("console says %q", n)
		}
	}
	if off := strings.Contains(text, "reboot: Power down"); off == s.resets {
		t.Errorf("machine powered off = %v, want it to reset = %v", off, s.resets)
	}
	if s.name == "good" {
		checkReport(t, text)
	}
	after, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after, image) {
		t.Error("the boot changed the disk")
	}
}

func checkReport(t *testing.T, console string) {
	t.Helper()
	_, after, ok := strings.Cut(console, "test-init: /run/eos/boot.json = ")
	line, _, _ := strings.Cut(after, "\n")
	if !ok {
		t.Error("init did not show boot.json")
		return
	}
	d, err := device.Parse([]byte(line))
	if err != nil {
		t.Errorf("Parse(boot.json) = %v, %s", err, line)
		return
	}
	want := device.Device{
		Slot: "a", Disk: "/dev/vda", DiskGUID: diskGUID, ESP: "/dev/vda1",
		Slots:    map[device.Slot]string{"a": "/dev/vda2", "b": "/dev/vda3"},
		Registry: "/dev/vda4", Trial: true, Mapper: "/dev/mapper/eos-root", BuildID: buildID, Version: "1.0", Timings: d.Timings,
	}
	got, _ := json.Marshal(d)
	if wantText, _ := json.Marshal(want); !bytes.Equal(got, wantText) {
		t.Errorf("boot.json = %s, want %s", got, wantText)
	}
	if len(d.Timings) != 13 || d.Timings[0].Step != "kernel" || d.Timings[0].MS == 0 || d.Timings[5].Step != "disk" {
		t.Errorf("boot.json timings = %+v, want the kernel and the 12 steps up to the machine id", d.Timings)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
