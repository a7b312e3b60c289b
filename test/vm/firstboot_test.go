package vm_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/registry"
	"github.com/OSInside/eos/internal/registry/head"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// cutsPerBoot is how often the plug is pulled before a machine may come up: the first time while the
// registry is made, then at the boot after.
const cutsPerBoot = 2

// The plug is pulled at random writes of the first boot, while the partition grows and the registry is
// made on it. Whatever the disk has lost, the next boot ends with a registry that works.
func TestFirstBootCuts(t *testing.T) {
	l := theLab(t)
	c := l.keeperConfig(t)
	if *parallel > 1 {
		c.CPUs = 1
	}
	v := vmtest.Start(t, c)
	release := bytes.Repeat([]byte{0}, 512)
	held := append([]byte("H"), release[1:]...)
	if _, err := v.Registry().WriteAt(held, 0); err != nil {
		t.Fatal(err)
	}
	v.Expect(t, `test: holding`, limit)
	time.Sleep(2 * time.Second) // what else starts then has started
	p := &firstBoot{lab: l, start: v.Save(t)}
	p.letGo = func(t *testing.T, v *vmtest.VM) {
		t.Helper()
		if _, err := v.Registry().WriteAt(release, 0); err != nil {
			t.Fatal(err)
		}
		if err := v.Registry().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	p.measure(t)
	t.Logf("a first boot makes %d writes; %d cuts, seed %d", p.writes, *cuts, *seed)

	live(t, &p.done, p.life)
}

type firstBoot struct {
	*lab
	start  *vmtest.Snapshot
	letGo  func(*testing.T, *vmtest.VM)
	fat    []byte
	writes int64 // of a first boot that nothing interrupts
	done   atomic.Int64
}

func (p *firstBoot) measure(t *testing.T) {
	t.Helper()
	v := vmtest.Start(t, vmtest.Config{From: p.start, Key: p.sshKey(t)})
	p.fat = fatOf(t, v)
	before := v.Disk().Writes()
	p.letGo(t, v)
	v.WaitBoot(t)
	settled(t, v)
	wantRegistry(t, v)
	p.writes = v.Disk().Writes() - before
	one, key := identityOf(t, v), volumeKey(t, v)

	// Another device of the same image shares nothing with it.
	w := vmtest.Start(t, vmtest.Config{From: vmtest.Booted(t, p.keeperConfig(t)), Key: p.sshKey(t)})
	w.WaitBoot(t)
	two := identityOf(t, w)
	if one.machine == two.machine || one.hostKey == two.hostKey || one.luks == two.luks || key == volumeKey(t, w) {
		t.Errorf("two devices of one image:\n%v\n%v", one, two)
	}
	w.PowerCut(t)
	v.PowerCut(t)
}

// life is one machine; its cuts and the disk's losses come from the seed and its number alone.
func (p *firstBoot) life(t *testing.T, n int64) {
	mix := *seed*1_000_003 + uint64(n) + 1
	rnd := rand.New(rand.NewPCG(mix, 1))
	v := vmtest.Start(t, vmtest.Config{From: p.start, Key: p.sshKey(t), Seed: mix})
	for cut := range cutsPerBoot {
		if p.done.Add(1) > int64(*cuts) {
			break
		}
		at := 1 + rnd.Int64N(p.writes)
		if rnd.IntN(4) == 0 {
			at = max(1, p.writes-rnd.Int64N(40)) // copies, the head itself, the commit of the boot
		}
		if cut > 0 && strings.HasPrefix(headOf(t, v), "LUKS") {
			at = 1 + rnd.Int64N(20) // the registry is made; this boot only opens it
		}
		stopped := v.Disk().StopAt(at)
		enough := 30 * time.Second // this boot may have fewer to make
		if cut == 0 {
			p.letGo(t, v)
		} else {
			v.Boot(t)
			enough += 40 * time.Second
		}
		select {
		case <-stopped:
		case <-time.After(vmtest.Slow(enough)):
		}
		v.PowerCut(t)
		if !bytes.Equal(fatOf(t, v), p.fat) {
			t.Errorf("cut at write %d: the FAT is not what it was", at)
		}
		t.Logf("cut at write %d: the partition has %d MiB and begins with %q", at, v.Partition(t, registry.Partition).Size>>20, headOf(t, v))
	}
	v.Boot(t)
	v.WaitBoot(t)
	settled(t, v)
	st := wantRegistry(t, v)
	for _, bad := range st.Notes {
		t.Logf("note: %s", bad)
	}
	for _, from := range []int64{0, 1} { // both copies of the table
		table, err := gpt.Read(skipFirst{v, from == 1}, v.Disk().Size())
		if err != nil {
			t.Fatal(err)
		}
		part, err := table.ByName(registry.Partition)
		if err != nil || part.Start+part.Size < v.Disk().Size()-2<<20 || head.MachineID(part.GUID) == "" {
			t.Errorf("partition table %d: %+v, %v", from, part, err)
		}
	}
	v.MustSSH(t, "echo x >"+data+" && sync && grep -q x "+data+" && test -s /var/lib/eos/ssh/ssh_host_ed25519_key")
	v.PowerCut(t)
}

// skipFirst reads the disk, if asked to with the first copy of its partition table gone.
type skipFirst struct {
	v    *vmtest.VM
	skip bool
}

func (s skipFirst) ReadAt(b []byte, off int64) (int, error) {
	n, err := s.v.Disk().ReadAt(b, off)
	if s.skip && off <= 512 && off+int64(n) > 512 {
		clear(b[512-off : min(int64(n), 1024-off)])
	}
	return n, err
}

func headOf(t *testing.T, v *vmtest.VM) string {
	t.Helper()
	b := make([]byte, 20)
	if _, err := v.Partition(t, registry.Partition).ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}
