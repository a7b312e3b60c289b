package earlyboot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/gpt"
)

const otherID = "11111111-2222-3333-4444-555555555555"

func TestChooseDisk(t *testing.T) {
	noTable := errors.New("no partition table")
	for _, tt := range []struct {
		name  string
		disks []Disk
		want  string
		err   string
		wait  bool // waiting may help
	}{
		{"no disk", nil, "", "no such disk: this kernel sees no disk at all", true},
		{"the one", []Disk{{"/dev/vda", diskID, nil}}, "/dev/vda", "", false},
		{
			"among others", []Disk{{"/dev/sda", "", noTable}, {"/dev/sdb", otherID, nil}, {"/dev/vda", diskID, nil}},
			"/dev/vda", "", false,
		},
		{
			"only others", []Disk{{"/dev/sda", "", noTable}, {"/dev/sdb", otherID, nil}}, "",
			"no such disk with the GUID " + diskID + " (eos.disk=); there is /dev/sda: no partition table; /dev/sdb: GUID " + otherID, true,
		},
		{
			"a copy", []Disk{{"/dev/vda", diskID, nil}, {"/dev/vdb", diskID, nil}}, "",
			"/dev/vda and /dev/vdb have the same GUID " + diskID + ": one is a copy of the other, and which one is meant cannot be known; remove all but one", false,
		},
		{
			"two copies", []Disk{{"/dev/a", diskID, nil}, {"/dev/b", diskID, nil}, {"/dev/x", otherID, nil}, {"/dev/c", diskID, nil}}, "",
			"/dev/a, /dev/b and /dev/c have the same GUID " + diskID + ": one is a copy of the other, and which one is meant cannot be known; remove all but one", false,
		},
	} {
		got, err := ChooseDisk(diskID, tt.disks)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got.Device != tt.want || text != tt.err || errors.Is(err, errNoDisk) != tt.wait {
			t.Errorf("%s: ChooseDisk() = %q, %v, want %q, %s", tt.name, got.Device, err, tt.want, tt.err)
		}
	}
}

// sysfs makes files below a temporary folder.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestListDisks(t *testing.T) {
	files := map[string]string{"loop0/size": "8\n", "nosize/x": ""}
	for _, d := range []string{"vda", "nvme0n1", "mmcblk0", "mmcblk0boot0", "mmcblk0rpmb", "sr0", "dm-0", "ram1", "zram0", "md127", "nbd3", "fd0", "cciss!c0d0"} {
		files[d+"/size"] = "2048\n"
	}
	files["sdz/size"] = "0\n" // card reader without a card
	got, err := listDisks(sysfs(t, files))
	if want := "cciss!c0d0 mmcblk0 nvme0n1 vda"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("listDisks() = %q, %v, want %s", got, err, want)
	}
	if _, err := listDisks(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("listDisks(no folder) = nil, want an error")
	}
}

func TestSysSectors(t *testing.T) {
	dir := sysfs(t, map[string]string{"good": "2048\n", "bad": "x\n", "negative": "-1\n", "huge": "99999999999999999\n"})
	if got, err := sysSectors(dir + "/good"); err != nil || got != 1<<20 {
		t.Errorf("sysSectors(2048) = %d, %v, want 1 MiB", got, err)
	}
	for _, name := range []string{"bad", "negative", "huge", "missing"} {
		if got, err := sysSectors(filepath.Join(dir, name)); err == nil {
			t.Errorf("sysSectors(%s) = %d, want an error", name, got)
		}
	}
}

func TestPartitionNode(t *testing.T) {
	dir := sysfs(t, map[string]string{
		"size":             "9999\n",
		"queue/x":          "",
		"vda1/partition":   "1\n",
		"vda1/start":       "2048\n",
		"vda1/size":        "100\n",
		"vda12/partition":  "12\n",
		"vda12/start":      "4096\n",
		"vda12/size":       "200\n",
		"x!y7/partition":   "7\n",
		"x!y7/start":       "0\n",
		"x!y7/size":        "8\n",
		"broken/partition": "9\n",
	})
	part := func(number int, start, size int64) gpt.Partition {
		return gpt.Partition{Number: number, Name: "p", Start: start * 512, Size: size * 512}
	}
	for _, tt := range []struct {
		p         gpt.Partition
		want, err string
	}{
		{part(1, 2048, 100), "/dev/vda1", ""},
		{part(12, 4096, 200), "/dev/vda12", ""},
		{part(7, 0, 8), "/dev/x/y7", ""},
		{part(2, 1, 1), "", "partition 2 (p): file does not exist"},
		// The kernel's view is older than the table.
		{part(1, 4096, 100), "", "kernel has partition 1 at 1048576+51200, the partition table at 2097152+51200"},
		{part(1, 2048, 99), "", "kernel has partition 1 at 1048576+51200, the partition table at 1048576+50688"},
		{part(9, 0, 0), "", "open " + dir + "/broken/start: no such file or directory"},
	} {
		got, err := partitionNode(dir, tt.p)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != tt.want || text != tt.err {
			t.Errorf("partitionNode(%+v) = %q, %v, want %q, %s", tt.p, got, err, tt.want, tt.err)
		}
	}
	if _, err := partitionNode(dir, part(2, 1, 1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("partitionNode(not there yet) = %v, want fs.ErrNotExist", err)
	}
}

func TestFindPartition(t *testing.T) {
	table := &gpt.Table{Partitions: []gpt.Partition{{Number: 1, Name: "x"}, {Number: 3, Name: "y"}, {Number: 4, Name: "x"}}}
	if p, err := findPartition(table, "y"); err != nil || p == nil || p.Number != 3 {
		t.Errorf("findPartition(y) = %+v, %v, want partition 3", p, err)
	}
	if p, err := findPartition(table, "z"); err != nil || p != nil {
		t.Errorf("findPartition(z) = %+v, %v, want none", p, err)
	}
	if p, err := findPartition(table, "x"); err == nil || err.Error() != "partitions 1 and 4 are both named x" {
		t.Errorf("findPartition(x) = %+v, %v, want an error that names both", p, err)
	}
	if got, want := join(partitionNames(table)), `1 "x", 3 "y" and 4 "x"`; got != want {
		t.Errorf("partitionNames() = %s, want %s", got, want)
	}
	if got := join(partitionNames(&gpt.Table{})); got != "none" {
		t.Errorf("partitionNames(no partitions) = %s, want none", got)
	}
}
