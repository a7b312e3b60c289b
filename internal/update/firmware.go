package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/repository"
)

// FirmwareOptions say what a refresh of the firmware does.
type FirmwareOptions struct {
	DryRun         bool // write nothing
	AllowDowngrade bool // also from an image older than the other committed one
}

// States of a firmware file on the EFI system partition. In a dry run the last two say
// what it would become.
const (
	FirmwareCurrent  = "current"  // it is the running image's
	FirmwareReplaced = "replaced" // it was another, which is kept beside it
	FirmwareNew      = "new"      // there was none
)

// FirmwareResult says what a refresh of the firmware did.
type FirmwareResult struct {
	Version string         `json:"version"` // of the image it was taken from
	Files   []FirmwareFile `json:"files"`
	Changed bool           `json:"changed"` // anything was, or in a dry run would be
	DryRun  bool           `json:"dry_run,omitempty"`
}

// FirmwareFile is one file of the firmware.
type FirmwareFile struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Old   string `json:"old,omitempty"` // beginning of the SHA-256 of what was there
	New   string `json:"new"`           // and of what is
	// Previous is where the file is kept that was replaced.
	Previous string `json:"previous,omitempty"`
}

// Firmware makes the boot loader, and whatever else the board starts, that of the
// running image: file by file, each verified, written beside the old one and switched
// in one step. Slots, kernel images, boot state and record are not written.
func (u *Updater) Firmware(ctx context.Context, o FirmwareOptions) (*FirmwareResult, error) {
	var res *FirmwareResult
	err := u.locked(ctx, 0, func() error {
		s, err := u.open()
		if err != nil {
			return err
		}
		if err := s.mayRefresh(o); err != nil {
			return err
		}
		res = &FirmwareResult{Version: s.manifests[s.d.Running].Version, DryRun: o.DryRun}
		if res.Files, err = s.compareFirmware(ctx); err != nil {
			return err
		}
		for _, f := range res.Files {
			if f.State == FirmwareCurrent {
				continue
			}
			res.Changed = true
			if o.DryRun {
				continue
			}
			if err := s.installFirmware(ctx, f.Name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// mayRefresh says whether the running image's firmware is the one to have.
func (s *session) mayRefresh(o FirmwareOptions) error {
	running, other := s.d.Running, s.d.Running.Other()
	own := s.manifests[running]
	switch st := s.d.State.Slot(running).Status; {
	case s.recovered != nil:
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: the boot state is lost: %w", s.recovered), "os-update --commit rebuilds it")
	case own == nil:
		return unverified(fmt.Errorf("refresh firmware: slot %s, which runs, does not verify: %w", running, s.problems[running]))
	case st == bootstate.Trial:
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: slot %s is on trial", running), "wait until the trial has ended: firmware is not rolled back with a slot")
	case st != bootstate.Committed:
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: slot %s is not committed, it is %s", running, st), "os-update --commit")
	case s.d.TrialPending():
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: slot %s is about to start its trial", other), "wait until the trial has ended")
	}
	if o.AllowDowngrade || s.d.Static || s.d.State.Slot(other).Status != bootstate.Committed {
		return nil
	}
	const hint = "--allow-downgrade takes the running image's firmware all the same"
	m := s.manifests[other]
	if m == nil {
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: the other slot %s is committed, and whether it is newer is not known: %w", other, s.problems[other]), hint)
	}
	if repository.CompareVersions(m.Version, own.Version) > 0 {
		return cli.Refuse(cli.Refused, fmt.Errorf("refresh firmware: slot %s is committed and holds %s, which is newer than %s, which runs: the firmware may be its own",
			other, m.Version, own.Version), hint)
	}
	return nil
}

// compareFirmware says what is on the EFI system partition and what will be.
func (s *session) compareFirmware(ctx context.Context) ([]FirmwareFile, error) {
	v, err := s.Machine.ESP(false)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return compareFirmware(ctx, s.Machine.Firmware(), v)
}

func compareFirmware(ctx context.Context, tree fs.FS, v *esp.Volume) ([]FirmwareFile, error) {
	names, err := firmwareNames(tree)
	if err != nil {
		return nil, err
	}
	out := make([]FirmwareFile, len(names))
	for i, name := range names {
		want, err := sumOf(ctx, tree, name)
		if err != nil {
			return nil, fmt.Errorf("read firmware of the running image: %w", err)
		}
		out[i] = FirmwareFile{Name: name, New: short(want)}
		switch have, err := v.FirmwareSum(ctx, name); {
		case errors.Is(err, fs.ErrNotExist):
			out[i].State = FirmwareNew
		case err != nil:
			return nil, err
		case bytes.Equal(have, want):
			out[i].State, out[i].Old = FirmwareCurrent, short(have)
		default:
			out[i].State, out[i].Old = FirmwareReplaced, short(have)
			if out[i].Previous, err = esp.Previous(name); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// short is enough of a checksum to tell files apart.
func short(sum []byte) string { return hex.EncodeToString(sum[:8]) }

// FirmwareStatus says whether the boot loader on the EFI system partition is that of the
// running image.
type FirmwareStatus struct {
	State string   `json:"state"`           // current, other or unknown
	Other []string `json:"other,omitempty"` // files that are not the running image's
	Why   string   `json:"why,omitempty"`   // why it is unknown
}

// States of the firmware as a whole, besides [FirmwareCurrent].
const (
	FirmwareOther   = "other"
	FirmwareUnknown = "unknown"
)

func firmwareUnknown(err error) *FirmwareStatus {
	return &FirmwareStatus{State: FirmwareUnknown, Why: err.Error()}
}

// firmwareStatus looks at the volume.
func firmwareStatus(tree fs.FS, v *esp.Volume) *FirmwareStatus {
	files, err := compareFirmware(context.Background(), tree, v)
	if err != nil {
		return firmwareUnknown(err)
	}
	st := &FirmwareStatus{State: FirmwareCurrent}
	for _, f := range files {
		if f.State != FirmwareCurrent {
			st.State, st.Other = FirmwareOther, append(st.Other, f.Name)
		}
	}
	return st
}

func (f *FirmwareStatus) text() string {
	switch f.State {
	case FirmwareCurrent:
		return "that of the running image"
	case FirmwareOther:
		return "not that of the running image: " + strings.Join(f.Other, ", ") + " (os-update --firmware replaces it)"
	}
	return "unknown: " + f.Why
}

// firmwareNames lists the files of a firmware tree, in order. Two that would be kept
// under the same name are refused.
func firmwareNames(tree fs.FS) ([]string, error) {
	var names []string
	kept := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a file", name)
		}
		previous, err := esp.Previous(name)
		if err != nil {
			return err
		}
		if kept[previous] != "" {
			return fmt.Errorf("%s and %s would be kept under the same name", kept[previous], name)
		}
		kept[previous] = name
		names = append(names, name)
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.Refuse(cli.Refused, errors.New("the running image has no firmware in "+FirmwareDir), "update to an image that has: builds of this version of EOS do")
	}
	if err != nil {
		return nil, fmt.Errorf("read firmware of the running image: %w", err)
	}
	return names, nil
}

func sumOf(ctx context.Context, tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return h.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// installFirmware brings one file to the EFI system partition.
func (s *session) installFirmware(ctx context.Context, name string) error {
	if err := s.fault("before %s", name); err != nil {
		return err
	}
	f, err := s.Machine.Firmware().Open(name)
	if err != nil {
		return fmt.Errorf("read firmware of the running image: %w", err)
	}
	defer f.Close()
	src, ok := f.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("internal error: firmware file %s cannot be read twice", name)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read firmware of the running image: %w", err)
	}
	s.Progress.Stage("install "+name, st.Size())
	defer s.Progress.Done()
	if err := s.withESP(func(v *esp.Volume) error { return v.InstallFirmware(ctx, name, src, st.Size()) }); err != nil {
		return err
	}
	return s.fault("after %s", name)
}
