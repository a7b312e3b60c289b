package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/vm/cutdisk"
)

// Snapshot is a saved machine, from which any number of machines can start.
type Snapshot struct {
	dir            string
	config         Config
	disk, registry *cutdisk.Disk
	bootID         string
}

var snapshots atomic.Int64

// Save saves the running machine, which ends. The snapshot is gone with the test.
func (v *VM) Save(t testing.TB) *Snapshot {
	t.Helper()
	s := v.save(t)
	t.Cleanup(func() { s.remove() })
	return s
}

func (v *VM) save(t testing.TB) *Snapshot {
	t.Helper()
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	v.disconnect()
	s := &Snapshot{
		dir:    filepath.Join(dir, fmt.Sprintf("saved%d", snapshots.Add(1))),
		config: v.config,
		bootID: v.bootID,
	}
	ctx, cancel := context.WithTimeout(t.Context(), Slow(2*time.Minute))
	defer cancel()
	if err := v.Machine.Save(ctx, s.dir); err != nil {
		t.Fatal(err)
	}
	freeze := func(d *served) *cutdisk.Disk {
		if d == nil {
			return nil
		}
		d.server.Close()
		if err := d.Freeze(); err != nil {
			t.Fatal(err)
		}
		return d.Disk
	}
	s.disk, s.registry = freeze(v.disk), freeze(v.registry)
	v.disk, v.registry = nil, nil
	return s
}

func (s *Snapshot) remove() {
	for _, d := range []*cutdisk.Disk{s.disk, s.registry} {
		if d != nil {
			d.Close()
		}
	}
	os.RemoveAll(s.dir)
}

// booted are the snapshots that Booted has made.
var booted struct {
	sync.Mutex
	made map[Config]*Snapshot // nil value: could not be made
}

// Booted returns a snapshot of the machine that ssh lets us into, booted once per process and
// configuration. A test process that calls it needs [Main].
func Booted(t testing.TB, c Config) *Snapshot {
	t.Helper()
	Need(t)
	c.Seed, c.Cut = 0, 0 // nothing is cut here
	booted.Lock()
	defer booted.Unlock()
	if s, ok := booted.made[c]; ok {
		if s == nil {
			t.Fatalf("%s did not boot for an earlier test", c.Image)
		}
		return s
	}
	if booted.made == nil {
		booted.made = map[Config]*Snapshot{}
	}
	booted.made[c] = nil
	start := time.Now()
	v := Start(t, c)
	v.WaitBoot(t)
	t.Logf("%s booted in %v", c.Image, time.Since(start).Round(time.Second))
	s := v.save(t)
	booted.made[c] = s
	return s
}
