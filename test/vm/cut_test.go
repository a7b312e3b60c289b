package vm_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

var (
	cuts     = flag.Int("cuts", 1, "power cuts at random moments, of each kind")
	seed     = flag.Uint64("seed", 1, "seed of the moments and of what the disk loses")
	first    = flag.Int64("first", 0, "number of the first life; to repeat a failure: -seed S -first L -cuts 3")
	parallel = flag.Int("machines", 1, "machines at a time")
)

// perLife is how many cuts a machine has to live through at most before its update may complete.
const perLife = 3

// The plug is pulled at random moments of apply, trial and commit, of the first attempt and of
// those that continue it; every third cut or so falls near the commit, a second or two that
// uniform moments would seldom meet. Whatever the moment: the machine boots a committed slot
// by itself, and the update then completes. The disk loses, keeps and tears what was not
// flushed, by the seed.
func TestPowerCuts(t *testing.T) {
	l := theLab(t)
	c := vmtest.Config{Image: l.v1(t).Raw, Key: l.sshKey(t)}
	if *parallel > 1 {
		c.CPUs = 1 // emulated processors that wait for each other waste the host's
	}
	p := &plug{lab: l, start: vmtest.Booted(t, c), server: l.serve(t, l.publish(t, l.v2(t)))}

	// How long an update takes here bounds the moments.
	p.measure(t)
	t.Logf("an update takes %v; %d cuts, seed %d", p.span.Round(time.Second), *cuts, *seed)

	live(t, &p.done, p.life)
}

// live runs lives, as many at a time as -machines says, until there were as many cuts as -cuts says.
func live(t *testing.T, done *atomic.Int64, life func(*testing.T, int64)) {
	t.Helper()
	var lives atomic.Int64
	lives.Store(*first)
	var wg sync.WaitGroup
	for range *parallel {
		wg.Go(func() {
			for done.Load() < int64(*cuts) {
				n := lives.Add(1) - 1
				t.Run(fmt.Sprintf("life %d", n), func(t *testing.T) { life(t, n) })
			}
		})
	}
	wg.Wait()
}

// Near the commit: how often, and how long after the trial's first answer at most, as a part
// of the time that an update takes.
const (
	commitShare  = 1.0 / 3
	commitWindow = 1.0 / 3
)

// plug is what all lives share.
type plug struct {
	*lab
	start  *vmtest.Snapshot
	server *server
	fat    []byte        // of the EFI system partition, as it was made
	span   time.Duration // of an update, from its start to the commit
	done   atomic.Int64  // cuts
}

func (p *plug) measure(t *testing.T) {
	t.Helper()
	v := vmtest.Start(t, vmtest.Config{From: p.start, Key: p.sshKey(t)})
	v.WaitBoot(t)
	p.fat = fatOf(t, v)
	began := time.Now()
	apply(t, v, p.server)
	v.WaitReboot(t, limit)
	settled(t, v)
	p.span = time.Since(began)
	v.PowerCut(t)
}

// life is one machine. The moments of its cuts and the disk's losses come from the seed and
// its number alone, so that a failure can be repeated.
func (p *plug) life(t *testing.T, n int64) {
	mix := *seed*1_000_003 + uint64(n) + 1
	rnd := rand.New(rand.NewPCG(mix, 0))
	v := vmtest.Start(t, vmtest.Config{From: p.start, Key: p.sshKey(t), Seed: mix})
	v.WaitBoot(t)
	named := ""
	for range perLife {
		if p.done.Add(1) > int64(*cuts) {
			break
		}
		began := time.Now()
		v.MustSSH(t, "systemd-run --quiet os-update --apply --server "+p.server.URL()+named)
		if rnd.Float64() < commitShare {
			// The trial commits when its network is up, which is when it answers.
			v.WaitReboot(t, limit)
			time.Sleep(time.Duration(rnd.Float64() * commitWindow * float64(p.span)))
		} else {
			time.Sleep(time.Duration(rnd.Float64() * 1.1 * float64(p.span)))
		}
		moment, console := time.Since(began), lastLine(v.Console(t))
		v.PowerCut(t)
		// FAT has no journal: its structure must not change, or a cut can damage it for good.
		if !bytes.Equal(fatOf(t, v), p.fat) {
			t.Errorf("cut after %v, console %q: the FAT is not what it was", moment, console)
		}

		v.Boot(t)
		v.WaitBoot(t)
		st := settled(t, v)
		t.Logf("cut after %v, console %q: boots slot %s version %s, slot b is %s",
			moment.Round(100*time.Millisecond), console, st.Running, st.Version, slotOf(t, st, bootstate.B).Status)
		if st.Running == bootstate.B && st.Version == "2.0.0" {
			wantRunning(t, v, st, bootstate.B, "2.0.0")
			return
		}
		wantRunning(t, v, st, bootstate.A, "1.0.0")
		// Naming the version says that it may be tried although its trial was cut.
		named = " --version 2.0.0"
	}
	apply(t, v, p.server, named)
	v.WaitReboot(t, limit)
	wantRunning(t, v, settled(t, v), bootstate.B, "2.0.0")
	v.PowerCut(t)
}

// fatOf reads the file allocation tables of the EFI system partition; the places of the fields
// are from the FAT32 specification, 3.1 and 3.3.
func fatOf(t *testing.T, v *vmtest.VM) []byte {
	t.Helper()
	p := v.Partition(t, "p.UEFI")
	boot := make([]byte, 512)
	if _, err := p.ReadAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	sector, reserved := int64(le.Uint16(boot[11:])), int64(le.Uint16(boot[14:]))
	tables, size := int64(boot[16]), int64(le.Uint32(boot[36:]))
	fat := make([]byte, tables*size*sector)
	if len(fat) < 1024 || len(fat) > 64<<20 {
		t.Fatalf("FAT of %d bytes", len(fat))
	}
	if _, err := p.ReadAt(fat, reserved*sector); err != nil {
		t.Fatal(err)
	}
	return fat
}

func lastLine(s string) string {
	s = strings.TrimRight(s, "\n ")
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return s[:min(len(s), 90)]
}
