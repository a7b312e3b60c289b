package initramfs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/initramfs"
	"github.com/OSInside/eos/internal/initramfs/kerneltest"
	"github.com/OSInside/eos/internal/kmod"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

func compress(t *testing.T, data string) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll([]byte(data), nil)
}

func tree(t *testing.T) fstest.MapFS {
	return fstest.MapFS{
		"modules.dep": {Data: []byte("kernel/md/dm-verity.ko.zst: kernel/md/dm-bufio.ko kernel/md/dm-mod.ko.zst\n" +
			"kernel/md/dm-bufio.ko: kernel/md/dm-mod.ko.zst\nkernel/md/dm-mod.ko.zst:\nkernel/fs/squashfs.ko.xz:\n" +
			"kernel/net/huge.ko.zst:\nkernel/broken.ko: kernel/nowhere.ko\nkernel/gone.ko:\nkernel/bad.ko.xz:\nkernel/torn.ko.gz:\n")},
		"modules.alias":              {Data: []byte("alias fs-squashfs squashfs\nalias net-* huge\nalias dm-v* dm_verity\n")},
		"modules.builtin":            {Data: []byte("kernel/virtio_pci.ko\n")},
		"kernel/md/dm-verity.ko.zst": {Data: compress(t, "dm-verity")},
		"kernel/md/dm-bufio.ko":      {Data: []byte("dm-bufio")},
		"kernel/md/dm-mod.ko.zst":    {Data: compress(t, "dm-mod")},
		"kernel/bad.ko.xz":           {Data: []byte("no xz at all")},
		"kernel/torn.ko.gz":          {Data: []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1}},
		// Decompressed after depmod ran.
		"kernel/fs/squashfs.ko": {Data: []byte("squashfs")},
	}
}

func config(t *testing.T) initramfs.Config {
	return initramfs.Config{
		Init: []byte("the init"), Tree: tree(t), KernelVersion: "6.1-x", BuildID: "b1", Epoch: 1700000000,
		Keys: []initramfs.Key{{Name: "two.pub", PEM: []byte("2")}, {Name: "one.pub", PEM: []byte("1")}},
		Modules: []initramfs.Module{
			{Name: "dm-verity", Essential: true}, {Name: "squashfs", Essential: true}, {Name: "virtio_pci"}, {Name: "nvme"},
		},
	}
}

// list reads an initramfs back: one line for each entry, in order.
func list(t *testing.T, data []byte) (lines []string, files map[string]string) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files = map[string]string{}
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%06o %d %s", h.Mode, h.ModTime.Unix(), h.Name))
		if h.Mode.IsRegular() {
			files[h.Name] = string(b)
		}
	}
}

func TestBuild(t *testing.T) {
	var out bytes.Buffer
	report, err := initramfs.Build(&out, config(t))
	if err != nil {
		t.Fatal(err)
	}
	wantReport := &initramfs.Report{
		Modules: []string{"kernel/fs/squashfs.ko", "kernel/md/dm-bufio.ko", "kernel/md/dm-mod.ko", "kernel/md/dm-verity.ko"},
		Builtin: []string{"virtio_pci"}, Absent: []string{"nvme"}, Unpacked: report.Unpacked,
	}
	if diff := cmp.Diff(wantReport, report); diff != "" {
		t.Errorf("Build() report (-want +got):\n%s", diff)
	}
	lines, files := list(t, out.Bytes())
	const m = "usr/lib/modules/6.1-x"
	wantLines := []string{
		"dev", "etc", "etc/eos", "etc/eos/build-id", "etc/eos/keys", "etc/eos/keys/one.pub", "etc/eos/keys/two.pub", "init",
		"proc", "run", "sys", "sysroot", "usr", "usr/lib", "usr/lib/modules", m, m + "/kernel", m + "/kernel/fs",
		m + "/kernel/fs/squashfs.ko", m + "/kernel/md", m + "/kernel/md/dm-bufio.ko", m + "/kernel/md/dm-mod.ko",
		m + "/kernel/md/dm-verity.ko", m + "/modules.alias", m + "/modules.builtin", m + "/modules.dep",
	}
	for i, name := range wantLines {
		mode := "040755"
		if _, ok := files[name]; ok {
			mode = "100644"
		}
		if name == "init" {
			mode = "100755"
		}
		wantLines[i] = mode + " 1700000000 " + name
	}
	if diff := cmp.Diff(wantLines, lines); diff != "" {
		t.Errorf("Build() archive (-want +got):\n%s", diff)
	}
	wantFiles := map[string]string{
		"init": "the init", "etc/eos/build-id": "b1\n", "etc/eos/keys/one.pub": "1", "etc/eos/keys/two.pub": "2",
		m + "/kernel/fs/squashfs.ko": "squashfs", m + "/kernel/md/dm-bufio.ko": "dm-bufio",
		m + "/kernel/md/dm-mod.ko": "dm-mod", m + "/kernel/md/dm-verity.ko": "dm-verity",
		m + "/modules.builtin": "kernel/virtio_pci.ko\n",
		m + "/modules.alias":   "alias fs-squashfs squashfs\nalias dm-v* dm_verity\n",
		m + "/modules.dep": "kernel/fs/squashfs.ko:\nkernel/md/dm-bufio.ko: kernel/md/dm-mod.ko\nkernel/md/dm-mod.ko:\n" +
			"kernel/md/dm-verity.ko: kernel/md/dm-bufio.ko kernel/md/dm-mod.ko\n",
	}
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Errorf("Build() files (-want +got):\n%s", diff)
	}
}

func TestBuildErrors(t *testing.T) {
	for _, tt := range []struct {
		change func(*initramfs.Config)
		want   string
	}{
		{func(c *initramfs.Config) { c.Init = nil }, "no init binary"},
		{func(c *initramfs.Config) { c.Tree = nil }, "no module tree"},
		{func(c *initramfs.Config) { c.KernelVersion = "a/b" }, `kernel version "a/b" is not a file name`},
		{func(c *initramfs.Config) { c.BuildID = "" }, `build id "" is not a word`},
		{func(c *initramfs.Config) { c.Keys = nil }, "no accepted key: eos-init would boot nothing"},
		{func(c *initramfs.Config) { c.Keys[0].Name = "../x.pub" }, `key file name "../x.pub": want NAME.pub`},
		{func(c *initramfs.Config) { c.Keys[0].Name = "one.pub" }, `key file name "one.pub": given twice`},
		{func(c *initramfs.Config) { c.Tree = fstest.MapFS{} }, "read modules.dep: open modules.dep: file does not exist"},
		{func(c *initramfs.Config) { c.Modules = nil; delete(c.Tree.(fstest.MapFS), "modules.builtin") }, "read modules.builtin: open modules.builtin: file does not exist"},
		{
			func(c *initramfs.Config) { c.Modules = []initramfs.Module{{"overlay", true, "for nothing"}} },
			"essential module overlay: neither a module file nor built into the kernel (for nothing)",
		},
		{
			func(c *initramfs.Config) { c.Modules = []initramfs.Module{{"broken", false, ""}} },
			"module broken: dependency: module nowhere: neither a module file nor built into the kernel",
		},
		{func(c *initramfs.Config) { c.Modules = []initramfs.Module{{"gone", false, ""}} }, "read module gone: open kernel/gone.ko: file does not exist"},
		{func(c *initramfs.Config) { c.Modules = []initramfs.Module{{"bad", false, ""}} }, "read module bad: kernel/bad.ko.xz: xz: invalid header magic bytes"},
		{func(c *initramfs.Config) { c.Modules = []initramfs.Module{{"torn", false, ""}} }, "read module torn: kernel/torn.ko.gz: unexpected EOF"},
	} {
		c := config(t)
		tt.change(&c)
		_, err := initramfs.Build(io.Discard, c)
		if want := "build initramfs: " + tt.want; err == nil || err.Error() != want {
			t.Errorf("Build() = %v, want %s", err, want)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestBuildWriteError(t *testing.T) {
	if _, err := initramfs.Build(full{}, config(t)); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Build(full disk) = %v, want disk full", err)
	}
}

// With Debian's kernel: what has to be in is in, the same bytes come out twice,
// and programs that everyone trusts read them.
func TestBuildRealKernel(t *testing.T) {
	tools := toolstreetest.Open(t)
	k := kerneltest.Open(t)
	c := config(t)
	c.Tree, c.KernelVersion, c.Modules = os.DirFS(k.Modules), k.Version, nil
	var out, again bytes.Buffer
	report, err := initramfs.Build(&out, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := initramfs.Build(&again, c); err != nil {
		t.Fatal(err)
	}
	if a, b := sha256.Sum256(out.Bytes()), sha256.Sum256(again.Bytes()); a != b {
		t.Errorf("Build() twice = %x and %x, want the same bytes", a, b)
	}
	t.Logf("%d modules, %d bytes, %d compressed; built in: %v; not in this kernel: %v", len(report.Modules), report.Unpacked, out.Len(),
		report.Builtin, report.Absent)
	var names []string
	for _, m := range report.Modules {
		names = append(names, kmod.Name(m))
	}
	for _, m := range []string{"dm_mod", "dm_verity", "dm_bufio", "squashfs", "i6300esb", "watchdog", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "sha256_ssse3"} {
		if !slices.Contains(names, m) {
			t.Errorf("Build() has no %s", m)
		}
	}

	file := path.Join(t.TempDir(), "initrd.zst")
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	plain, err := command.Output(t.Context(), tools.Command("zstd", "-d", "-c", file))
	if err != nil {
		t.Fatal(err)
	}
	cmd := tools.Command("cpio", "--list", "--quiet")
	cmd.Stdin = bytes.NewReader(plain)
	got, err := command.Output(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range report.Modules {
		if !strings.Contains(string(got), "usr/lib/modules/"+k.Version+"/"+m+"\n") {
			t.Errorf("cpio does not list %s", m)
		}
	}
	_, files := list(t, out.Bytes())
	for name, data := range files {
		if strings.HasSuffix(name, ".ko") && !strings.HasPrefix(data, "\x7fELF") {
			t.Errorf("%s is no ELF file", name)
		}
	}
}
