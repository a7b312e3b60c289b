package update

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
)

// small makes images that are quick to write.
func small(s *spec) { s.size = 150_000 }

// newDisk gives the lab a new device, whose disk forgets writes that were not
// synced when the power goes.
func newDisk(l *lab, seed uint64) *disk {
	l.t.Helper()
	l.renew()
	d := &disk{t: l.t, rand: rand.New(rand.NewPCG(seed, 3)), path: l.machine.slots["b"]}
	l.machine.writing = func(b Block) Block { return &volatileBlock{Block: b, d: d, l: l} }
	return d
}

const sector = 512

// disk remembers what the sectors held that were written since the last sync.
type disk struct {
	t      *testing.T
	rand   *rand.Rand
	path   string
	old    map[int64][]byte
	writes int // WriteAt calls so far
	dieAt  int // the write at which the power goes; 0: never
}

// lose plays the power going: of each sector that was not synced, the disk may
// have the new content or still the old.
func (d *disk) lose() {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for at := int64(0); at < slotSize; at += sector { // in order, so that a seed is repeatable
		if old, ok := d.old[at]; ok && d.rand.IntN(2) == 0 {
			if _, err := f.WriteAt(old, at); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	d.old = nil
}

type volatileBlock struct {
	Block
	d *disk
	l *lab
}

func (v *volatileBlock) WriteAt(b []byte, off int64) (int, error) {
	if v.l.machine.dead {
		return 0, errPower
	}
	d := v.d
	if d.old == nil {
		d.old = map[int64][]byte{}
	}
	for at := off / sector * sector; at < off+int64(len(b)); at += sector {
		if _, ok := d.old[at]; !ok {
			s := make([]byte, sector)
			if _, err := v.Block.ReadAt(s, at); err != nil {
				d.t.Fatal(err)
			}
			d.old[at] = s
		}
	}
	n, err := v.Block.WriteAt(b, off)
	if d.writes++; d.writes == d.dieAt {
		v.l.machine.dead = true
		d.lose()
		return 0, errPower
	}
	return n, err
}

func (v *volatileBlock) Sync() error {
	if v.l.machine.dead {
		return errPower
	}
	v.d.old = nil
	return v.Block.Sync()
}

// updateTo is what somebody does who wants version 2: apply, jump, commit.
func updateTo(l *lab) error {
	// Named, because a trial that lost power counts as failed.
	res, err := l.u.Apply(l.t.Context(), ApplyOptions{Choice: Choice{Version: "2"}})
	if err != nil || res.Outcome == OutcomeUpToDate {
		return err
	}
	l.kexec()
	_, err = l.u.Commit(l.t.Context())
	return err
}

func rollBack(l *lab) error {
	_, err := l.u.Rollback(l.t.Context(), true)
	return err
}

// TestCutAtEveryStep cuts the power, or kills the program, before and after every
// step of every plan and after every chunk, and checks that a committed slot
// boots and that the operation then completes.
func TestCutAtEveryStep(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(l *lab)
		op      func(l *lab) error
		version string // that runs in the end
	}{
		{"update by kexec", func(*lab) {}, updateTo, "2"},
		{"roll back", func(l *lab) { l.must(updateTo(l)) }, rollBack, "1"},
	} {
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, program killed %v", c.name, kill), func(t *testing.T) {
				points := 0
				l := newLab(t)
				l.publish("2", small)
				for n := 1; ; n++ {
					d := newDisk(l, uint64(n))
					c.prepare(l)
					if !cutAt(l, d, n, kill, c.op) {
						break
					}
					points++
					finish(l, c.op, c.version)
					if t.Failed() {
						t.Fatalf("cut at point %d", n)
					}
				}
				if points < 8 {
					t.Errorf("%d places to cut, want every step", points)
				}
			})
		}
	}
}

// cutAt runs op and cuts at its n-th point. It says whether there was one.
func cutAt(l *lab, d *disk, n int, kill bool, op func(*lab) error) bool {
	l.t.Helper()
	count := 0
	l.u.Fault = func(point string) error {
		if count++; count == n {
			l.machine.dead = true
			return fmt.Errorf("%w %s", errPower, point)
		}
		return nil
	}
	err := op(l)
	l.u.Fault = nil
	if count < n {
		l.must(err)
		return false
	}
	if !errors.Is(err, errPower) {
		l.t.Fatalf("cut at point %d = %v, want %v", n, err, errPower)
	}
	if kill {
		l.machine.dead = false // the system runs on, nothing is lost
		return true
	}
	d.lose()
	l.powerOn()
	return true
}

// finish does what the system and its operator do after a cut.
func finish(l *lab, op func(*lab) error, version string) {
	l.t.Helper()
	if _, err := l.u.Commit(l.t.Context()); err != nil {
		l.t.Fatalf("commit after the cut: %v", err)
	}
	if l.machine.dev.Version != version {
		l.must(op(l))
	}
	l.powerOn()
	l.commit()
	if l.machine.dev.Version != version {
		l.t.Errorf("version %s runs in the end, want %s (state %+v)", l.machine.dev.Version, version, l.state())
	}
	if s := l.state(); s.Default != l.machine.dev.Slot || s.Slot(s.Default).Status != bootstate.Committed {
		l.t.Errorf("state in the end = %+v", s)
	}
}

// TestTornWrites lets the power go in the middle of writes to the slot.
func TestTornWrites(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	d := newDisk(l, 0)
	l.must(updateTo(l))
	total := d.writes
	samples := min(total, 25)
	if total < 5 {
		t.Fatalf("an update took %d writes, want several", total)
	}
	for i := range samples {
		at := 1 + i*(total-1)/(samples-1)
		d := newDisk(l, uint64(at))
		d.dieAt = at
		if err := updateTo(l); !errors.Is(err, errPower) {
			t.Fatalf("update torn at write %d = %v, want %v", at, err, errPower)
		}
		l.powerOn()
		if l.machine.dev.Slot != "a" {
			t.Fatalf("torn at write %d: slot %s runs", at, l.machine.dev.Slot)
		}
		finish(l, updateTo, "2")
	}
}

// TestTornAgainAndAgain tears every run of an update until one gets through: the
// kept chunks must let it get further each time.
func TestTornAgainAndAgain(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	d := newDisk(l, 9)
	for try := 1; ; try++ {
		if try > 40 {
			t.Fatal("no progress in 40 tries")
		}
		d.writes, d.dieAt = 0, 3+try/2
		err := updateTo(l)
		if err == nil {
			break
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		l.powerOn()
		l.commit()
	}
	d.dieAt = 0
	finish(l, updateTo, "2")
}
