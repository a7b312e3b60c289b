package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/registry/torn"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
	"golang.org/x/sys/unix"
)

// onLoop does something with the block device of a file, which has the sectors that LUKS2 gives a registry.
func onLoop(t *testing.T, image string, do func(dev string)) {
	t.Helper()
	dev, detach := toolstreetest.Loop(t, image, 4096)
	defer detach()
	do(dev)
}

// alone gives the test mounts of its own: a process started elsewhere may keep a copy of others, and
// their file systems with them.
func alone(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlock it: it ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// xfs is a file system whose power was cut.
type xfs struct {
	tree     *toolstree.Tree
	dir      string
	old, new []byte            // the device as the cut left it, and after a replay of its journal
	files    map[string]string // and what is in it then
}

// cut makes one. In its journal are changes of blocks of most kinds.
func cut(t *testing.T) *xfs {
	x := &xfs{tree: toolstreetest.Open(t), dir: t.TempDir()}
	image, root := filepath.Join(x.dir, "image"), filepath.Join(x.dir, "root")
	// What a block was before it was given to a directory is not zeros.
	must(t, os.WriteFile(image, bytes.Repeat([]byte("old data"), 320<<20/8), 0o600))
	r := rand.New(rand.NewPCG(1, 2))
	onLoop(t, image, func(dev string) {
		must(t, command.Run(t.Context(), x.tree.Command(mkfs(dev)...)))
		must(t, mountXFS(dev, root))
		work(t, root, 1, r)
		must(t, unmount(root))
		must(t, mountXFS(dev, root))
		work(t, root, 3, r)
		must(t, os.RemoveAll(root+"/dir1"))
		work(t, root, 2, r)
		f, err := os.Open(root)
		must(t, err)
		const goingDown, flushLog = 0x8004587d, 1 // XFS_IOC_GOINGDOWN: nothing but the journal is written
		must(t, errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), goingDown, flushLog), f.Close(), unmount(root)))
	})
	var err error
	x.old, err = os.ReadFile(image)
	must(t, err)
	onLoop(t, image, func(dev string) {
		must(t, mountXFS(dev, root))
		x.files = contentOf(t, root)
		must(t, unmount(root))
	})
	x.new, err = os.ReadFile(image)
	must(t, err)
	return x
}

// work fills directories of all forms, with files, long links and attributes, and flushes after each round.
func work(t *testing.T, root string, rounds int, r *rand.Rand) {
	for round := range rounds {
		for d, n := range []int{5, 40, 120, 1200, 9, 60} {
			dir := fmt.Sprintf("%s/dir%d", root, d)
			must(t, os.MkdirAll(dir, 0o755))
			for i := range n / rounds {
				name := fmt.Sprintf("%s/a file of round %d, number %d, %x", dir, round, i, r.Uint32())
				must(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, r.IntN(5000)), 0o644))
				switch r.IntN(16) {
				case 0, 1, 2:
					must(t, os.Remove(name))
				case 3:
					must(t, os.Symlink(strings.Repeat("x", 1000), name+".link"))
				case 4:
					must(t, unix.Setxattr(name, "user.long", bytes.Repeat([]byte("y"), 900), 0))
				}
			}
		}
		f, err := os.Create(filepath.Join(root, "marker"))
		must(t, err)
		must(t, errors.Join(f.Sync(), f.Close()))
	}
}

// contentOf reads all that is in a folder.
func contentOf(t *testing.T, root string) map[string]string {
	all := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		content := ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(b))
		} else if d.Type()&fs.ModeSymlink != 0 {
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		all[strings.TrimPrefix(path, root)] = d.Type().String() + content
		return nil
	}))
	return all
}

// tear returns the device with a block torn.
func (x *xfs) tear(d []byte, at int64, r *rand.Rand) []byte {
	d = bytes.Clone(d)
	x.tearIn(d, at, r)
	return d
}

// tearIn makes the first sector of a block new, and some of the others, but not the last that differs.
func (x *xfs) tearIn(d []byte, at int64, r *rand.Rand) {
	last := at + 4096 - sector
	for last > at && bytes.Equal(x.old[last:][:sector], x.new[last:][:sector]) {
		last -= sector
	}
	for s := at; s < last; s += sector {
		if s == at || r.IntN(3) == 0 {
			copy(d[s:][:sector], x.new[s:])
		}
	}
}

// torn finds blocks that can be torn, some of each kind.
func (x *xfs) torn(t *testing.T, r *rand.Rand) map[string][]int64 {
	found, all := map[string][]int64{}, 0
	tried := map[string]int{}
	for at := int64(0); at < int64(len(x.old)); at += 4096 {
		o, n := x.old[at:][:4096], x.new[at:][:4096]
		magic := string(n[:4])
		if !slices.Contains([]string{"XDB3", "XDD3", "AB3B", "AB3C", "IAB3", "FIB3", "RMB3", "R3FC", "BMA3", "XSLM", "XAFL"}, magic) {
			if magic = string(n[8:10]); !slices.Contains([]string{"\x3d\xf1", "\x3d\xff", "\x3e\xbe", "\x3b\xee"}, magic) {
				continue
			}
		}
		if bytes.Equal(o[:sector], n[:sector]) || bytes.Equal(o[sector:], n[sector:]) {
			continue
		}
		if tried[magic]++; tried[magic] > 20 {
			continue // enough of these
		}
		all++
		d := x.tear(x.old, at, r)
		got, err := torn.Find(bytes.NewReader(d))
		must(t, err)
		if len(got) != 1 {
			t.Logf("torn %q at %d: not found", magic, at) // perhaps changed after the replay
			continue
		}
		if got[0].At != at || !bytes.Equal(got[0].Whole, n) {
			t.Errorf("torn %s at %d: not what the replay has made of it", got[0].Kind, at)
		}
		found[got[0].Kind] = append(found[got[0].Kind], at)
	}
	right := 0
	for kind, at := range found {
		right += len(at)
		t.Logf("%s: %d", kind, len(at))
	}
	if right < 30 || right*10 < all*9 || len(found) < 6 {
		t.Errorf("%d of %d torn blocks of %d kinds were found", right, all, len(found))
	}
	return found
}

// heals has a device healed, and compares what is in it.
func (x *xfs) heals(t *testing.T, name string, d []byte, want int) {
	t.Helper()
	image, root := filepath.Join(x.dir, "image"), filepath.Join(x.dir, "root")
	write := func() { must(t, os.WriteFile(image, d, 0o600)) }
	write()
	onLoop(t, image, func(dev string) {
		err := mountXFS(dev, root)
		if err == nil {
			must(t, unmount(root))
		}
		if !errors.Is(err, unix.EBADMSG) && !errors.Is(err, unix.EUCLEAN) {
			t.Fatalf("%s: a mount = %v, want it to find damage, or there is nothing to test", name, err)
		}
	})
	write()
	onLoop(t, image, func(dev string) {
		n, err := heal(dev, root)
		if err != nil || n != want {
			t.Errorf("%s: heal = %d blocks, %v, want %d blocks", name, n, err, want)
		}
		if err != nil {
			return
		}
		if got := contentOf(t, root); !maps.Equal(got, x.files) {
			t.Errorf("%s: %d files after healing, want the %d of before", name, len(got), len(x.files))
		}
		must(t, unmount(root))
		must(t, command.Run(t.Context(), x.tree.Command("xfs_repair", "-n", dev)))
	})
}

// TestHeal tears blocks of a real file system in the way that the kernel's recovery gives up on, and has them written.
func TestHeal(t *testing.T) {
	toolstreetest.NeedRoot(t)
	alone(t)
	x, r := cut(t), rand.New(rand.NewPCG(3, 4))
	found := x.torn(t, r)
	all := bytes.Clone(x.old)
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		at := found[kind][r.IntN(len(found[kind]))]
		x.heals(t, kind, x.tear(x.old, at, r), 1)
		for _, at := range found[kind][:min(5, len(found[kind]))] { // no disk has more under way
			x.tearIn(all, at, r)
		}
	}
	got, err := torn.Find(bytes.NewReader(all))
	must(t, err)
	n := len(got)
	if n < 10 {
		t.Errorf("of blocks of %d kinds torn at once %d are found", len(found), n)
	}
	x.heals(t, "many", all, n)
	// Cut while they are written, in the middle of one.
	half := bytes.Clone(all)
	for _, b := range got[:n/2] {
		copy(half[b.At:], b.Whole)
	}
	copy(half[got[n/2].At:], got[n/2].Whole[:2048])
	left, err := torn.Find(bytes.NewReader(half))
	must(t, err)
	if len(left) == 0 || len(left) >= n {
		t.Errorf("%d of %d blocks are torn after half of them were written", len(left), n)
	}
	x.heals(t, "many, cut while written", half, len(left))

	at := found["directory data"][0]
	x.leaves(t, x.tear(x.old, at, r), at)
}

// leaves has a look at blocks that are damaged in another way: nothing is written.
func (x *xfs) leaves(t *testing.T, d []byte, at int64) {
	image := filepath.Join(x.dir, "image")
	for name, off := range map[string]int64{"magic": 0, "checksum": 4, "place": 15, "LSN": 23, "file system": 25, "an entry": 200} {
		bad := bytes.Clone(d)
		bad[at+off] ^= 1
		must(t, os.WriteFile(image, bad, 0o600))
		onLoop(t, image, func(dev string) {
			if n, err := mend(dev); n != 0 || err != nil {
				t.Errorf("a directory with a wrong %s: mend = %d blocks, %v, want none", name, n, err)
			}
		})
		if after, err := os.ReadFile(image); err != nil || !bytes.Equal(after, bad) {
			t.Errorf("a directory with a wrong %s: it was written to, %v", name, err)
		}
	}
	// Of a block that the journal does not name, nobody asks for the replay.
	bad := bytes.Clone(x.new)
	bad[at+3000] ^= 1
	must(t, os.WriteFile(image, bad, 0o600))
	onLoop(t, image, func(dev string) {
		root := filepath.Join(x.dir, "root")
		n, err := heal(dev, root)
		if n != 0 || err != nil {
			t.Fatalf("heal with a damaged block elsewhere = %d blocks, %v, want it mounted", n, err)
		}
		must(t, unmount(root))
	})
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(after[at:][:4096], bad[at:][:4096]) {
		t.Errorf("a damaged block that the journal does not name was written, %v", err)
	}
}
