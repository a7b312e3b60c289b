package update

import (
	"context"
	"errors"
	"fmt"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
)

// ApplyOptions say what an apply does.
type ApplyOptions struct {
	Choice
	DownloadOnly bool // stop when the image is written and verified
	DryRun       bool // write nothing
	// Before sees the result before the jump, after which nothing can be
	// reported any more. Its error stops there.
	Before func(*ApplyResult) error
}

// Outcomes of an apply.
const (
	OutcomeUpToDate   = "up-to-date"
	OutcomePlanned    = "planned"    // a dry run
	OutcomeWritten    = "written"    // the other slot holds the image
	OutcomeActivating = "activating" // and is about to be started
)

// ApplyResult says what an apply did. Bytes are of the image without its hash
// tree, which is computed on the device.
type ApplyResult struct {
	Outcome    string         `json:"outcome"`
	Installed  ImageInfo      `json:"installed"`
	Available  ImageInfo      `json:"available"`
	Slot       bootstate.Slot `json:"slot"`
	Activation string         `json:"activation,omitempty"`
	// Wrote is false when the image was there already.
	Wrote   bool `json:"wrote"`
	Resumed bool `json:"resumed"` // an interrupted apply of the same image was continued

	TotalBytes   int64 `json:"total_bytes"`
	KeptBytes    int64 `json:"kept_bytes"`    // were in their place already
	ReusedBytes  int64 `json:"reused_bytes"`  // copied from the running slot
	FetchedBytes int64 `json:"fetched_bytes"` // of the image, from the server
	WrittenBytes int64 `json:"written_bytes"` // to the slot
	// FullImage says that the whole image was fetched, because the chunks that are missing
	// would have cost no less.
	FullImage bool `json:"full_image"`

	Traffic repository.Traffic `json:"traffic"` // everything, metadata included
	Plan    []string           `json:"plan,omitempty"`
	// PeakMemory is the largest resident memory of the program so far.
	PeakMemory int64 `json:"peak_memory_bytes,omitempty"`
}

// Apply writes an update to the other slot and starts it on trial.
func (u *Updater) Apply(ctx context.Context, o ApplyOptions) (*ApplyResult, error) {
	var res *ApplyResult
	err := u.locked(ctx, 0, func() error {
		s, err := u.beginApply(ctx, o.DryRun)
		if err != nil {
			return err
		}
		known := s.d.Record.Floors
		rel, err := s.find(ctx, o.Choice)
		if !o.DryRun {
			if err := s.storeFloors(ctx, known); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		res = &ApplyResult{
			Installed: info(s.manifests[s.d.Running], s.d.Running),
			Available: info(rel.m, ""),
			Slot:      s.d.Running.Other(),
		}
		a := &applying{session: s, rel: rel, opts: o, res: res}
		return a.run(ctx)
	})
	return res, err
}

// beginApply is begin, or for a dry run the same without its writes.
func (u *Updater) beginApply(ctx context.Context, dry bool) (*session, error) {
	if !dry {
		return u.begin(ctx)
	}
	s, err := u.open()
	if err != nil {
		return nil, err
	}
	for _, st := range s.d.PlanReconcile() {
		switch st.Kind {
		case slot.WriteState:
			s.d.State = st.State
		case slot.StoreRecord:
			s.d.Record = st.Record
		}
	}
	return s, nil
}

// applying is one apply at work.
type applying struct {
	*session
	rel  *release
	opts ApplyOptions
	res  *ApplyResult
}

func (a *applying) run(ctx context.Context) error {
	how, err := a.activation()
	if err != nil {
		return err
	}
	if err := a.wanted(a.rel.m, a.opts.Choice); errors.Is(err, errUpToDate) {
		a.res.Outcome = OutcomeUpToDate
		a.report()
		return nil
	} else if err != nil {
		return err
	}
	img := imageOf(a.rel.m)
	named := a.opts.Version != ""
	if err := a.settlePending(ctx); err != nil {
		return err
	}
	plan, err := a.d.PlanWrite(img, named)
	if err != nil {
		return a.explain(err)
	}
	if a.opts.DryRun {
		return a.dryRun(ctx, plan)
	}
	if len(plan) == 0 {
		plan, err = a.recheck(ctx, img, named)
		if err != nil {
			return err
		}
	}
	if err := a.write(ctx, plan); err != nil {
		return err
	}
	a.res.Outcome = OutcomeWritten
	if a.opts.DownloadOnly {
		a.report()
		return a.before()
	}
	return a.activate(ctx, how)
}

// activation is how the trial will be started.
func (a *applying) activation() (slot.Activation, error) {
	if a.Config.Activate == "" {
		return slot.Kexec, nil
	}
	return slot.ParseActivation(a.Config.Activate)
}

// settlePending takes back a trial that was announced by a run of this very boot
// that did not get to its jump, so that the image in the slot counts as written.
func (a *applying) settlePending(ctx context.Context) error {
	if !a.d.TrialPending() {
		return nil
	}
	plan, err := a.d.PlanCancel("the system was not restarted into it")
	if err != nil {
		return a.explain(err)
	}
	if a.opts.DryRun {
		a.d.State = plan[0].State
		return nil
	}
	return a.do(ctx, plan)
}

// recheck reads an image back that an earlier run has written. One that is
// damaged by now is written again.
func (a *applying) recheck(ctx context.Context, img slot.Image, named bool) ([]slot.Step, error) {
	other := a.d.Running.Other()
	err := a.verifySlot(ctx, other)
	if err == nil || !isUnverified(err) {
		return nil, err
	}
	a.Progress.Note("%v; writing it again", err)
	a.manifests[other] = nil
	a.setImage(other, nil)
	plan, err := a.d.PlanWrite(img, named)
	return plan, a.explain(err)
}

func isUnverified(err error) bool {
	var e *cli.Error
	return errors.As(err, &e) && e.Code == cli.Unverified
}

// write fills the other slot.
func (a *applying) write(ctx context.Context, plan []slot.Step) error {
	if len(plan) == 0 {
		return nil
	}
	index, err := a.index(ctx)
	if err != nil {
		return err
	}
	fetch := a.rel.client.Fetcher(a.rel.image)
	defer fetch.Close()
	img := imageOf(a.rel.m)
	a.res.Resumed = a.d.Record.Writing != nil && *a.d.Record.Writing == img
	w := &writer{s: a.session, m: a.rel.m, block: a.rel.block, index: index, fetch: fetch}
	err = a.doWith(ctx, plan, w)
	a.take(w.stats)
	a.res.FullImage = w.full
	if err != nil {
		return err
	}
	a.res.Wrote = true
	return nil
}

func (a *applying) index(ctx context.Context) (*chunk.Index, error) {
	index, err := a.rel.client.OpenIndex(ctx, a.rel.image)
	if err != nil {
		return nil, clientError(err)
	}
	if err := checkIndex(index, a.rel.m, a.rel.block); err != nil {
		return nil, unverified(err)
	}
	a.res.TotalBytes = index.Size()
	return index, nil
}

func (a *applying) take(st chunk.Stats) {
	a.res.KeptBytes, a.res.ReusedBytes = st.KeptBytes, st.ReusedBytes
	a.res.FetchedBytes, a.res.WrittenBytes = st.FetchedBytes, st.WrittenBytes
	if a.res.Resumed {
		a.Progress.Note("continued an interrupted update: %d bytes kept, %d copied from slot %s, %d fetched in %d requests",
			st.KeptBytes, st.ReusedBytes, a.d.Running, st.FetchedBytes, st.Requests)
	}
}

// dryRun finds out what a write would fetch.
func (a *applying) dryRun(ctx context.Context, plan []slot.Step) (err error) {
	a.res.Outcome = OutcomePlanned
	for _, st := range plan {
		a.res.Plan = append(a.res.Plan, st.String())
	}
	if len(plan) > 0 {
		index, err := a.index(ctx)
		if err != nil {
			return err
		}
		dst, err := a.Machine.OpenSlot(a.d.Running.Other(), false)
		if err != nil {
			return err
		}
		defer dst.Close()
		kept, err := chunk.Scan(ctx, dst, index)
		if err != nil {
			return err
		}
		w := &writer{s: a.session, m: a.rel.m, block: a.rel.block, index: index}
		seeds, release := w.seeds(ctx, dst)
		defer release()
		p := chunk.MakePlan(index, kept, seeds, Merging).OrFullImage(index)
		a.res.KeptBytes, a.res.ReusedBytes = p.KeepBytes, p.ReuseBytes+p.CopyBytes
		a.res.FetchedBytes, a.res.FullImage = p.FetchBytes+p.ExtraBytes, p.FullImage
	}
	a.report()
	return a.before()
}

// activate starts the trial. Everything that can be found out before is found
// out before; if the jump itself is refused, the trial is taken back.
func (a *applying) activate(ctx context.Context, how slot.Activation) error {
	if err := a.Machine.KeepContainers(ctx, a.note); err != nil {
		return cli.Refuse(cli.Failure, err, "make room on the registry, or remove containers that are of no use any more; the image is written, and is started by the next run")
	}
	a.d.Server = a.Config.Server
	// Verified: the write ended with reading everything back, or recheck did.
	plan, err := a.d.PlanActivate(how, true)
	if err != nil {
		return a.explain(err)
	}
	last := len(plan) - 1
	if err := a.do(ctx, plan[:last]); err != nil {
		// A kernel that stays loaded would be what the next reboot starts.
		if how == slot.Kexec {
			_ = a.Machine.UnloadKernel()
		}
		return err
	}
	a.res.Outcome, a.res.Activation = OutcomeActivating, string(how)
	a.report()
	err = a.before()
	if err == nil {
		err = a.do(ctx, plan[last:])
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, a.cancel(how, err))
}

// cancel takes a trial back whose jump was refused. It does so also when the
// context has ended: an interrupt is one of the ways a jump does not happen.
func (a *applying) cancel(how slot.Activation, cause error) error {
	a.res.Outcome = OutcomeWritten
	var errs []error
	if how == slot.Kexec {
		errs = append(errs, a.Machine.UnloadKernel())
	}
	plan, err := a.d.PlanCancel(cause.Error())
	if err == nil {
		err = a.do(context.Background(), plan)
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("take the trial back: %w", err)
	}
	return nil
}

func (a *applying) report() {
	a.res.Traffic = a.rel.client.Traffic()
	a.res.PeakMemory = peakMemory()
}

func (a *applying) before() error {
	if a.opts.Before == nil {
		return nil
	}
	return a.opts.Before(a.res)
}

// note passes a line on.
func (u *Updater) note(line string) { u.Progress.Note("%s", line) }
