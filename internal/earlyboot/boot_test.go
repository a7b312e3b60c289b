package earlyboot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/slotimage"
)

func TestRun(t *testing.T) {
	boom := errors.New("boom")
	ok := func(*Boot) error { return nil }
	for _, tt := range []struct {
		name  string
		steps []Step
		step  string
		err   string
		timed string
	}{
		{"second fails", []Step{{"one", ok}, {"two", func(*Boot) error { return boom }}, {"three", ok}}, "two", "boom", "one"},
		{"comes back", []Step{{"one", ok}, {"init", ok}}, "init", "internal error: it came back", "one init"},
	} {
		b := &Boot{start: time.Now()}
		step, err := b.run(tt.steps)
		var timed []string
		for _, x := range b.timings {
			timed = append(timed, x.Step)
		}
		if step != tt.step || err.Error() != tt.err || strings.Join(timed, " ") != tt.timed {
			t.Errorf("%s: run() = %q, %v, timed %q, want %q, %s, %s", tt.name, step, err, timed, tt.step, tt.err, tt.timed)
		}
	}
}

// A panic is a failed step that says where it was.
func TestRunPanic(t *testing.T) {
	step, err := (&Boot{}).run([]Step{{"bad", func(b *Boot) error {
		_ = b.table.Partitions
		return nil
	}}})
	if step != "bad" || err == nil || !strings.HasPrefix(err.Error(), "internal error: runtime error: invalid memory address") ||
		!strings.Contains(err.Error(), "boot_test.go:") {
		t.Errorf("run(panic) = %q, %v, want an internal error in boot_test.go", step, err)
	}
	if got := where("no stack"); got != "" {
		t.Errorf("where(no stack) = %q, want nothing", got)
	}
}

func TestSteps(t *testing.T) {
	seen := map[string]bool{}
	var names []string
	for _, s := range Steps() {
		if s.Do == nil || seen[s.Name] {
			t.Errorf("step %q is empty or there twice", s.Name)
		}
		seen[s.Name] = true
		names = append(names, s.Name)
	}
	// Trust is made in this order; a change of it is a change of the design.
	want := "mounts, command line, watchdog, modules, disk, slot, manifest, signature, build id, verity, root, machine id, report, switch root, init"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("Steps() = %s, want %s", got, want)
	}
}

func TestFailure(t *testing.T) {
	if got, want := failure("a", "signature", errors.New("x: y")), "cannot boot slot a: signature: x: y"; got != want {
		t.Errorf("failure() = %q, want %q", got, want)
	}
	if got, want := failure("", "command line", errors.New("x")), "cannot boot: command line: x"; got != want {
		t.Errorf("failure(no slot) = %q, want %q", got, want)
	}
}

func TestSummary(t *testing.T) {
	b := &Boot{
		line: CommandLine{Slot: "b"}, manifest: &slotimage.Manifest{Version: "1.2"}, start: time.Now().Add(-time.Hour),
		timings: []device.Timing{{Step: "disk", MS: 12}, {Step: "root", MS: 3}}, kernelMS: 400,
	}
	got := b.summary()
	if !strings.HasPrefix(got, "slot b version 1.2 verified, switching root after 36000") || !strings.HasSuffix(got, " ms (disk 12, root 3; kernel 400)") {
		t.Errorf("summary() = %q", got)
	}
}

func TestLog(t *testing.T) {
	var kmsg, console bytes.Buffer
	l := &kernelLog{kmsg: &kmsg, console: &console}
	l.printf(levelCrit, "a\nb\x1b[2J%s", "é")
	if got, want := kmsg.String(), "<2>eos-init: a b?[2Jé\n"; got != want || console.Len() != 0 {
		t.Errorf("printf wrote %q and %q, want %q and nothing", got, console.String(), want)
	}
	kmsg.Reset()
	l.printf(levelInfo, "%s", strings.Repeat("é", 600))
	if got := kmsg.String(); len(got) > 960 || !strings.HasSuffix(got, "é...\n") {
		t.Errorf("printf of a long line wrote %d bytes, want at most 960 that end in é...", len(got))
	}
	l.kmsg = nil
	l.printf(levelInfo, "early")
	if got, want := console.String(), "eos-init: early\n"; got != want {
		t.Errorf("printf without kernel log wrote %q, want %q", got, want)
	}
}

func TestSetPanicTimeout(t *testing.T) {
	for _, tt := range []struct {
		old  string
		wait time.Duration
		want string
	}{
		{"0\n", 7 * time.Second, "7"},
		{"30\n", 7 * time.Second, "30\n"}, // panic=30 on the command line
		{"-1\n", 7 * time.Second, "-1\n"},
		{"0\n", 0, "0\n"},
	} {
		file := filepath.Join(t.TempDir(), "panic")
		if err := os.WriteFile(file, []byte(tt.old), 0o644); err != nil {
			t.Fatal(err)
		}
		b := &Boot{line: CommandLine{Panic: tt.wait}}
		b.setPanicTimeout(file)
		if got, err := os.ReadFile(file); err != nil || string(got) != tt.want {
			t.Errorf("setPanicTimeout(%q) with %v left %q, %v, want %q", tt.old, tt.wait, got, err, tt.want)
		}
	}
}

func TestIsWatchdog(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		want       bool
	}{
		{"i6300esb", "kernel/drivers/watchdog/i6300esb.ko", true},
		{"lpc_ich", "kernel/drivers/mfd/lpc_ich.ko", true},
		{"ahci", "kernel/drivers/ata/ahci.ko", false},
		{"virtio_pci", "", false},
	} {
		if got := isWatchdog(tt.name, tt.path); got != tt.want {
			t.Errorf("isWatchdog(%q, %q) = %v, want %v", tt.name, tt.path, got, tt.want)
		}
	}
}

func TestModaliases(t *testing.T) {
	dir := sysfs(t, map[string]string{
		"bus/pci/devices/b/modalias": "pci:v2\n", "bus/pci/devices/a/modalias": "pci:v1\n", "devices/system/cpu/modalias": "cpu:x\n",
		"bus/usb/devices/1-1/modalias": "pci:v1\n", "bus/pci/devices/c/modalias": "\n", "bus/pci/devices/a/other": "x", "bus/pci/drivers/d/modalias": "y",
	})
	if diff := cmp.Diff([]string{"pci:v1", "pci:v2", "cpu:x"}, modaliases(dir)); diff != "" {
		t.Errorf("modaliases() (-want +got):\n%s", diff)
	}
	if got := modaliases(filepath.Join(dir, "none")); got != nil {
		t.Errorf("modaliases(no folder) = %q, want none", got)
	}
}

func TestVerityTable(t *testing.T) {
	m := &slotimage.Manifest{DataSize: 8 * 4096}
	m.Salt[0], m.RootHash[0] = 1, 2
	got, err := verityTable("/dev/vda2", m)
	want := "1 /dev/vda2 /dev/vda2 4096 4096 8 9 sha256 02" + strings.Repeat("00", 31) + " 01" + strings.Repeat("00", 31)
	if err != nil || got.Params != want || got.Sectors != 64 {
		t.Errorf("verityTable() = %+v, %v, want 64 sectors, %s", got, err, want)
	}
}

func TestWriteReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run/eos/boot.json")
	d := &device.Device{
		Slot: "a", Disk: "/dev/vda", DiskGUID: diskID, ESP: "/dev/vda1",
		Slots:    map[bootstate.Slot]string{"a": "/dev/vda2", "b": "/dev/vda3"},
		Registry: "/dev/vda4", Trial: true, Mapper: "/dev/mapper/eos-root", BuildID: "x", Version: "1",
		Timings: []device.Timing{{Step: "disk", MS: 1}},
	}
	if err := writeReport(file, d); err != nil {
		t.Fatal(err)
	}
	got, err := device.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Errorf("Load(writeReport()) (-want +got):\n%s", diff)
	}
	d.ESP = ""
	if err := writeReport(file, d); err == nil {
		t.Error("writeReport(no ESP) = nil, want an error: os-update could not work with it")
	}
}

// root makes the skeleton of a slot's root.
func root(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range append([]string{"/usr/sbin", "/usr/lib/systemd"}, movedMounts...) {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/usr/lib/systemd/systemd", []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"/sbin": "usr/sbin", "/usr/sbin/init": "../lib/systemd/systemd"} {
		if err := os.Symlink(target, dir+link); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheckRoot(t *testing.T) {
	relink := func(target string) func(string) error {
		return func(dir string) error {
			return errors.Join(os.Remove(dir+"/usr/sbin/init"), os.Symlink(target, dir+"/usr/sbin/init"))
		}
	}
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		want   string
	}{
		{"as Debian has it", func(string) error { return nil }, ""},
		{"absolute link", relink("/lib/../usr/lib/systemd/systemd"), ""},
		{"link above the root", relink("../../../usr/lib/systemd/systemd"), ""},
		{"no /run", func(dir string) error { return os.Remove(dir + "/run") }, "root has no folder /run to mount on"},
		{"/dev is a link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/dev"), os.Symlink("/run", dir+"/dev"))
		}, "root has no folder /dev to mount on"},
		{"no init", func(dir string) error { return os.Remove(dir + "/usr/sbin/init") }, "/sbin/init: "},
		{"dangling", relink("nowhere"), "/sbin/init: "},
		{"circle", relink("init"), "/sbin/init: too many links"},
		{"init is a folder", relink("/usr"), "/sbin/init (usr) is not a program"},
		{"not executable", func(dir string) error { return os.Chmod(dir+"/usr/lib/systemd/systemd", 0o644) },
			"/sbin/init (usr/lib/systemd/systemd) is not a program"},
		{"empty", func(dir string) error { return os.Truncate(dir+"/usr/lib/systemd/systemd", 0) }, "/sbin/init: EOF"},
	} {
		dir := root(t)
		if tt.name == "absolute link" {
			if err := os.Symlink("usr/lib", dir+"/lib"); err != nil {
				t.Fatal(err)
			}
		}
		if err := tt.change(dir); err != nil {
			t.Fatal(err)
		}
		err := checkRoot(dir)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: checkRoot() = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Nothing is removed unless it is on a file system in memory.
func TestEmptyInitramfsSpares(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	inMemory := fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
	file := filepath.Join(dir, "sub", "file")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = emptyInitramfs(r)
	_, statErr := os.Stat(file)
	if inMemory && (err != nil || statErr == nil) {
		t.Errorf("emptyInitramfs(in memory) = %v and left the file (%v)", err, statErr)
	}
	if !inMemory && (err == nil || statErr != nil) {
		t.Errorf("emptyInitramfs(on a disk) = %v and removed the file (%v), want it refused", err, statErr)
	}
}
