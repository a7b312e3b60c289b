package update

import (
	"context"
	"errors"
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// do carries out a plan, in order and each step durable before the next. The
// session follows what was written. Steps that write an image are given by the
// one operation that has one.
func (s *session) do(ctx context.Context, plan []slot.Step) error { return s.doWith(ctx, plan, nil) }

func (s *session) doWith(ctx context.Context, plan []slot.Step, w *writer) error {
	for _, st := range plan {
		// Interrupting is fine between any two steps: running the operation
		// again continues.
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.fault("before %s", st.Kind); err != nil {
			return err
		}
		if err := s.step(ctx, st, w); err != nil {
			return err
		}
		if err := s.fault("after %s", st.Kind); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) step(ctx context.Context, st slot.Step, w *writer) error {
	switch st.Kind {
	case slot.WriteState:
		if err := s.withESP(func(v *esp.Volume) error { return v.SetState(st.State) }); err != nil {
			return err
		}
		s.d.State = st.State
		return nil
	case slot.StoreRecord:
		if err := s.withESP(func(v *esp.Volume) error { return v.SetRecord(st.Record) }); err != nil {
			return err
		}
		s.d.Record = st.Record
		return nil
	case slot.VerifySlot:
		return s.verifySlot(ctx, st.Slot)
	case slot.InstallKernel:
		return s.withKernel(ctx, st.Slot, func(k Kernel) error {
			return s.withESP(func(v *esp.Volume) error { return v.InstallKernel(ctx, st.Slot, k, k.Size()) })
		})
	case slot.VerifyKernel:
		return s.withKernel(ctx, st.Slot, func(k Kernel) error {
			return s.withESP(func(v *esp.Volume) error { return v.SameKernel(ctx, st.Slot, k, k.Size()) })
		})
	case slot.LoadKexec:
		return s.withKernel(ctx, st.Slot, func(k Kernel) error { return s.loadKexec(st.Slot, k) })
	case slot.Jump:
		return s.Machine.Jump(ctx)
	case slot.Reboot:
		return s.Machine.Reboot(ctx, false)
	case slot.InvalidateSlot, slot.WriteData, slot.WriteManifest:
		if w != nil {
			return w.step(ctx, st)
		}
	}
	return fmt.Errorf("internal error: step %q has nobody to carry it out", st)
}

// withESP mounts the EFI system partition for one step.
func (s *session) withESP(f func(*esp.Volume) error) (err error) {
	v, err := s.Machine.ESP(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return f(v)
}

// withKernel opens the kernel image inside a slot whose manifest verifies.
func (s *session) withKernel(ctx context.Context, x bootstate.Slot, f func(Kernel) error) (err error) {
	m := s.manifests[x]
	if m == nil {
		return fmt.Errorf("open kernel image of slot %s: %w", x, s.problems[x])
	}
	k, err := s.Machine.Kernel(ctx, x, m)
	if err != nil {
		return fmt.Errorf("open kernel image of slot %s: %w", x, err)
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	return f(k)
}

func (s *session) loadKexec(x bootstate.Slot, k Kernel) error {
	uki, err := kexec.Parse(k, k.Size())
	if err != nil {
		return fmt.Errorf("slot %s: %w", x, err)
	}
	line, err := kexec.CommandLine(uki.Cmdline, "eos.slot="+string(x), "eos.disk="+s.dev.DiskGUID, "COMMIT_UPDATE")
	if err != nil {
		return fmt.Errorf("slot %s: %w", x, err)
	}
	err = s.Machine.LoadKernel(uki, line)
	var u *kexec.UnsupportedError
	if errors.As(err, &u) {
		return cli.Refuse(cli.Failure, err, "run os-update --apply --activate reboot, or set `activate: reboot` in "+ConfigFile)
	}
	return err
}

// verifySlot reads a slot back from the medium: signature, and every block
// through the hash tree.
func (s *session) verifySlot(ctx context.Context, x bootstate.Slot) (err error) {
	b, err := s.Machine.OpenSlot(x, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.DropCache(); err != nil {
		return err
	}
	m, err := slotimage.Read(b, b.Size(), s.Accepted)
	if err != nil {
		return unverified(fmt.Errorf("verify slot %s: %w", x, err))
	}
	if want := s.manifests[x]; want != nil && *m != *want {
		return unverified(fmt.Errorf("verify slot %s: it holds %s (%s), not %s (%s)", x, m.Version, m.BuildID, want.Version, want.BuildID))
	}
	s.Progress.Stage("verify slot "+string(x), m.DataSize)
	defer s.Progress.Done()
	if err := slotimage.Verify(ctx, b, m, s.Progress.Add); err != nil {
		return unverified(fmt.Errorf("verify slot %s: %w", x, err))
	}
	s.manifests[x] = m
	s.setImage(x, &slot.Image{Version: m.Version, BuildID: m.BuildID})
	return nil
}
