// Package update checks for, applies, commits and rolls back OS images on a
// device. It puts the parts together: package repository says what there is,
// package slot decides what is allowed and in which order everything is written,
// and this package carries those steps out on a [Machine].
//
// Most callers need an [Updater] and its methods [Updater.Check],
// [Updater.Apply], [Updater.Commit], [Updater.Rollback] and [Updater.Status];
// [Updater.Firmware] refreshes the boot loader, [Updater.Read] streams an image
// instead of installing it.
//
// Crash promise: an operation may be cut, killed or lose power at any point. A
// committed slot stays bootable, and running the same operation again continues.
// Operations that change something hold a lock file, so there is one at a time;
// an Updater itself is for one goroutine.
//
// It does not decide when to update, holds no image in memory, and never touches
// the registry. The boot loader's own files are touched by [Updater.Firmware] alone.
package update

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// Updater carries out operations on one device.
type Updater struct {
	Machine  Machine
	Config   Config
	Accepted []ed25519.PublicKey // keys that may sign slot manifests
	Progress cli.Progress        // never nil
	Lock     string              // path of the lock file
	Trust    Trust               // where repository metadata is anchored and cached
	Fleet    Fleet               // what brings the key for ssh

	// Fault, if set, is called before every step of a plan and between the
	// parts of a long one; tests cut there. An error ends the operation.
	Fault func(point string) error
}

// session is what an operation knows about the device when it begins.
type session struct {
	*Updater
	dev       *device.Device
	d         slot.Device
	manifests map[bootstate.Slot]*slotimage.Manifest
	problems  map[bootstate.Slot]error // why a slot has no manifest
	recovered error                    // why the boot state had to be rebuilt
	forgotten error                    // why the record is empty
}

// open reads everything an operation needs: boot description, boot state,
// record, both manifests. It writes nothing.
func (u *Updater) open() (*session, error) {
	dev, err := u.Machine.Device()
	if err != nil {
		return nil, cli.Refuse(cli.Failure, err, "this works only on a system that eos-init has started")
	}
	s := &session{
		Updater: u, dev: dev,
		manifests: map[bootstate.Slot]*slotimage.Manifest{},
		problems:  map[bootstate.Slot]error{},
	}
	s.d = slot.Device{Running: dev.Slot, BootID: u.Machine.BootID(), Static: dev.Slots[bootstate.B] == ""}
	s.readSlots()
	s.d.Now = u.now(s.manifests[dev.Slot]).Unix()

	v, err := u.Machine.ESP(false)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return s, s.readState(v)
}

func (s *session) readSlots() {
	for _, x := range []bootstate.Slot{bootstate.A, bootstate.B} {
		if x == bootstate.B && s.d.Static {
			continue
		}
		m, err := s.readManifest(x)
		if err != nil {
			s.problems[x] = err
			continue
		}
		s.manifests[x] = m
		s.setImage(x, &slot.Image{Version: m.Version, BuildID: m.BuildID})
	}
}

func (s *session) setImage(x bootstate.Slot, img *slot.Image) {
	if x == bootstate.A {
		s.d.A = img
	} else {
		s.d.B = img
	}
}

func (s *session) readManifest(x bootstate.Slot) (*slotimage.Manifest, error) {
	b, err := s.Machine.OpenSlot(x, false)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return slotimage.Read(b, b.Size(), s.Accepted)
}

// readState reads boot state and record. A record that is lost costs history. A
// boot state that is lost is rebuilt from what is known to have been committed.
func (s *session) readState(v *esp.Volume) error {
	r, err := v.Record()
	if err != nil {
		s.forgotten = err
	}
	s.d.Record = r
	state, err := v.State()
	if err == nil {
		s.d.State = state
		return nil
	}
	s.recovered = err
	s.d.State, err = s.d.Recover()
	if err != nil {
		return errors.Join(s.recovered, err)
	}
	return nil
}

// begin opens a session for an operation that changes something: it repairs what
// was lost and settles what the last boot came to.
func (u *Updater) begin(ctx context.Context) (*session, error) {
	s, err := u.open()
	if err != nil {
		return nil, err
	}
	if s.forgotten != nil {
		u.Progress.Note("%v; going on without history", s.forgotten)
	}
	if s.recovered != nil {
		u.Progress.Note("%v; rebuilt: %s", s.recovered, slot.Step{Kind: slot.WriteState, State: s.d.State})
		if err := s.do(ctx, []slot.Step{{Kind: slot.WriteState, State: s.d.State}}); err != nil {
			return nil, err
		}
	}
	return s, s.do(ctx, s.d.PlanReconcile())
}

// now is the clock, which on a device without a battery starts in the past: time
// does not run before the running image was built.
func (u *Updater) now(running *slotimage.Manifest) time.Time {
	t := u.Machine.Now()
	if running != nil {
		if built := time.Unix(running.Built, 0); t.Before(built) {
			return built
		}
	}
	return t
}

// locked runs op with the lock held.
func (u *Updater) locked(ctx context.Context, wait time.Duration, op func() error) error {
	unlock, err := lock(ctx, u.Lock, wait)
	if err != nil {
		return err
	}
	defer unlock()
	return op()
}

// fault is a place where a test may cut.
func (u *Updater) fault(format string, a ...any) error {
	if u.Fault == nil {
		return nil
	}
	return u.Fault(fmt.Sprintf(format, a...))
}

// refused gives an error of package slot its exit code and hint.
func refused(err error) error {
	var r *slot.RefusedError
	if errors.As(err, &r) {
		return cli.Refuse(cli.Refused, err, r.Hint)
	}
	return err
}

// unverified gives an error about wrong bytes its exit code, unless the reading
// itself was what did not work.
func unverified(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var has *cli.Error
	if errors.As(err, &has) {
		return err
	}
	return cli.Refuse(cli.Unverified, err, "")
}
