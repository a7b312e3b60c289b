package vm_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

var (
	cuts     = flag.Int("cuts", 3, "power cuts at random moments of an update")
	seed     = flag.Uint64("seed", 1, "seed of the moments and of what the disk loses")
	parallel = flag.Int("machines", 1, "machines at a time")
)

// The plug is pulled at random moments of apply, trial and commit. Whatever the moment: the
// machine boots a committed slot by itself, and the update then completes. The disk loses,
// keeps and tears what was not flushed, by the seed.
func TestPowerCuts(t *testing.T) {
	l := theLab(t)
	c := vmtest.Config{Image: l.v1(t).Raw, Key: l.sshKey(t)}
	if *parallel > 1 {
		c.CPUs = 1 // emulated processors that wait for each other waste the host's
	}
	start := vmtest.Booted(t, c)
	s := l.serve(t, l.publish(t, l.v2(t)))

	// How long an update takes here bounds the moments.
	span := l.updateTime(t, start, s)
	t.Logf("an update takes %v; %d cuts, seed %d", span.Round(time.Second), *cuts, *seed)

	work := make(chan int)
	var wg sync.WaitGroup
	for range *parallel {
		wg.Go(func() {
			for i := range work {
				t.Run(fmt.Sprintf("cut %d", i), func(t *testing.T) { l.cut(t, start, s, span, i) })
			}
		})
	}
	for i := range *cuts {
		work <- i
	}
	close(work)
	wg.Wait()
}

// updateTime is how long an update takes from its start to the commit.
func (l *lab) updateTime(t *testing.T, start *vmtest.Snapshot, s *server) time.Duration {
	t.Helper()
	v := vmtest.Start(t, vmtest.Config{From: start, Key: l.sshKey(t)})
	v.WaitBoot(t)
	began := time.Now()
	apply(t, v, s)
	v.WaitReboot(t, limit)
	settled(t, v)
	span := time.Since(began)
	v.PowerCut(t)
	return span
}

// cut is one of the power cuts. Its moment and the disk's losses come from the seed and the
// number alone, so that a failure can be repeated.
func (l *lab) cut(t *testing.T, start *vmtest.Snapshot, s *server, span time.Duration, i int) {
	mix := *seed*1_000_003 + uint64(i) + 1
	rnd := rand.New(rand.NewPCG(mix, 0))
	v := vmtest.Start(t, vmtest.Config{From: start, Key: l.sshKey(t), Seed: mix})
	v.WaitBoot(t)

	moment := time.Duration(rnd.Float64() * 1.1 * float64(span))
	v.MustSSH(t, "systemd-run --quiet os-update --apply --server "+s.URL())
	time.Sleep(moment) // the random moment
	console := lastLine(v.Console(t))
	v.PowerCut(t)

	v.Boot(t)
	v.WaitBoot(t)
	st := settled(t, v)
	t.Logf("cut after %v, console %q: boots slot %s version %s, slot b is %s",
		moment.Round(100*time.Millisecond), console, st.Running, st.Version, slotOf(t, st, bootstate.B).Status)
	switch {
	case st.Running == bootstate.A && st.Version == "1.0.0":
		// Naming the version says that it may be tried although its trial was cut.
		apply(t, v, s, "--version", "2.0.0")
		v.WaitReboot(t, limit)
		st = settled(t, v)
	case st.Running == bootstate.B && st.Version == "2.0.0":
	default:
		t.Fatalf("boots slot %s with version %s", st.Running, st.Version)
	}
	wantRunning(t, v, st, bootstate.B, "2.0.0")
	v.PowerCut(t)
}

func lastLine(s string) string {
	s = strings.TrimRight(s, "\n ")
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return s[:min(len(s), 90)]
}
