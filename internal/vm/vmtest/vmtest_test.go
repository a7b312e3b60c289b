package vmtest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm/cutdisk"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }

// newImage returns a disk with a FAT partition p.UEFI and no system: the firmware's shell is
// the guest, which is there in seconds and writes files.
func newImage(t *testing.T) string {
	t.Helper()
	vmtest.Need(t)
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "shell.raw")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	table := tree.Command("sfdisk", "-q", image)
	table.Stdin = strings.NewReader("label: gpt\nstart=2048, size=40MiB, type=uefi, name=p.UEFI\n")
	if err := command.Run(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	// Sectors of FAT count from the start of the partition.
	if err := command.Run(t.Context(), tree.Command("mkfs.vfat", "-F", "32", "-s", "1", "--offset=2048", image, "40960")); err != nil {
		t.Fatal(err)
	}
	return image
}

func start(t *testing.T, c vmtest.Config) *vmtest.VM {
	t.Helper()
	c.Memory = 256 << 20
	v := vmtest.Start(t, c)
	v.Expect(t, `Shell>`, time.Minute)
	return v
}

func TestExpectAndSend(t *testing.T) {
	v := start(t, vmtest.Config{Image: newImage(t)})
	v.Send(t, "set greeting hello\rset\r")
	if got := v.Expect(t, `^greeting = (\w+)$`, 10*time.Second); got[1] != "hello" {
		t.Errorf("Expect found %q, want greeting = hello", got)
	}
	if !strings.Contains(v.ConsoleTail(20), "greeting = hello") {
		t.Errorf("ConsoleTail(20) = %q, want the greeting in it", v.ConsoleTail(20))
	}
	v.Send(t, "reset -s\r")
	v.WaitOff(t, 30*time.Second)
	v.Boot(t)
	v.Expect(t, `Shell>`, time.Minute)
	if strings.Contains(v.Console(t), "greeting") {
		t.Error("Console holds what an earlier boot printed")
	}
}

func TestSnapshotAndPowerCut(t *testing.T) {
	v := start(t, vmtest.Config{Image: newImage(t)})
	v.Send(t, "fs0:\r")
	v.Expect(t, `FS0:\\>`, 10*time.Second)
	saved := v.Save(t)

	for _, tt := range []struct {
		mode cutdisk.Mode
		want bool
	}{{cutdisk.Keep, true}, {cutdisk.Lose, false}} {
		began := time.Now()
		v := vmtest.Start(t, vmtest.Config{From: saved, Cut: tt.mode})
		t.Logf("restored in %v", time.Since(began))
		if tt.mode == cutdisk.Lose {
			// The plug is pulled at the first write: nothing can have been flushed.
			stopped := v.Disk().StopAt(1)
			v.Send(t, "mkdir made\r")
			select {
			case <-stopped:
			case <-time.After(vmtest.Slow(30 * time.Second)):
				t.Fatal("the guest wrote nothing")
			}
		} else {
			v.Send(t, "mkdir made\rls\r")
			v.Expect(t, `<DIR>.*made`, 20*time.Second)
		}
		v.PowerCut(t)
		if got := bytes.Contains(content(t, v), []byte("MADE ")); got != tt.want {
			t.Errorf("after cut %d the disk holds the folder: %v, want %v", tt.mode, got, tt.want)
		}
		v.Boot(t)
		v.Expect(t, `Shell>`, time.Minute)
	}
}

// content returns the content of the partition, the way tests of images do: by name.
func content(t *testing.T, v *vmtest.VM) []byte {
	t.Helper()
	p := v.Partition(t, "p.UEFI")
	b := make([]byte, p.Size)
	if _, err := p.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChangePartition(t *testing.T) {
	image := newImage(t)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := start(t, vmtest.Config{Image: image})
	v.PowerCut(t)
	v.EditPartition(t, "p.UEFI", func(path string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("edited"), 3<<20); err != nil {
			t.Fatal(err)
		}
	})
	v.FlipBit(t, "p.UEFI", 3<<20, 1)
	if got := content(t, v)[3<<20:][:6]; string(got) != "gdited" {
		t.Errorf("partition holds %q, want gdited", got)
	}
	after, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the image file was written")
	}
}
