package esp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/OSInside/eos/internal/fat"
)

// firmware names the files that belong to one firmware file. There is at most one
// beside it: either previous, which is whole, or fresh, which nobody may trust.
type firmware struct {
	live     string // what the firmware of the board starts
	fresh    string // what is being written
	previous string // what was live before
}

// firmwareNames refuses what is no firmware: above all the slots and the boot state.
func firmwareNames(name string) (firmware, error) {
	fail := func(why string) (firmware, error) {
		return firmware{}, fmt.Errorf("firmware file %q: %s", name, why)
	}
	if !fs.ValidPath(name) || name == "." {
		return fail("want a path relative to the root of the volume, in its shortest form")
	}
	upper := strings.ToUpper(name)
	if own := strings.ToUpper(folder); upper == own || strings.HasPrefix(upper, own+"/") {
		return fail(folder + " is for slots and boot state")
	}
	for elem := range strings.SplitSeq(name, "/") {
		if _, err := fat.Short(elem); err != nil {
			return firmware{}, fmt.Errorf("firmware file %q: %w", name, err)
		}
	}
	stem := path.Dir(name) + "/" + strings.ToUpper(strings.TrimSuffix(path.Base(name), path.Ext(name)))
	f := firmware{live: name, fresh: path.Clean(stem + ".NEW"), previous: path.Clean(stem + ".OLD")}
	if ext := strings.ToUpper(path.Ext(name)); ext == ".NEW" || ext == ".OLD" {
		return fail("this name is for what is written, or was before")
	}
	return f, nil
}

// Previous returns the name under which the firmware file that name replaced is kept.
func Previous(name string) (string, error) {
	f, err := firmwareNames(name)
	return f.previous, err
}

// FirmwareSum reads a firmware file from the disk and returns its SHA-256. A file
// that is not there is [fs.ErrNotExist].
func (v *Volume) FirmwareSum(ctx context.Context, name string) ([]byte, error) {
	f, err := firmwareNames(name)
	if err != nil {
		return nil, err
	}
	sum, _, err := hashFile(ctx, v.Path(f.live))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return sum, nil
}

// InstallFirmware puts a firmware file in the place of the one that is there, which
// is kept as [Previous]. One that is there already is left alone, so installing
// twice writes nothing. The folder it goes to has to exist.
//
// The mount is let go of and taken again meanwhile; after an error the volume can
// only be closed.
func (v *Volume) InstallFirmware(ctx context.Context, name string, src io.ReaderAt, size int64) error {
	f, err := firmwareNames(name)
	if err != nil {
		return err
	}
	if size <= 0 {
		return fmt.Errorf("install %s: it is empty", name)
	}
	want, err := hashPadded(ctx, src, size, size)
	if err != nil {
		return fmt.Errorf("read new %s: %w", name, err)
	}
	have, _, err := hashFile(ctx, v.Path(name))
	if err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read old %s: %w", name, err)
	}
	if err := v.installFirmware(ctx, f, src, size, want); err != nil {
		return fmt.Errorf("install %s on %s: %w", name, v.name, err)
	}
	return nil
}

func (v *Volume) installFirmware(ctx context.Context, f firmware, src io.ReaderAt, size int64, want []byte) error {
	if st, err := os.Stat(v.Path(path.Dir(f.live))); err != nil || !st.IsDir() {
		return fmt.Errorf("there is no folder %s", path.Dir(f.live))
	}
	var have int64 // of what is beside it, and is written over
	for _, name := range []string{f.previous, f.fresh} {
		if st, err := os.Stat(v.Path(name)); err == nil {
			have = st.Size()
		}
	}
	if err := v.room(size, have); err != nil {
		return err
	}
	if err := v.unmounted(func(e entries) error { return e.claim(f) }); err != nil {
		return err
	}
	if err := v.cut("write"); err != nil {
		return err
	}
	if err := writeFile(ctx, v.Path(f.fresh), src, size, size); err != nil {
		return err
	}
	if err := v.cut("sync"); err != nil {
		return err
	}
	if err := v.syncFolder(path.Dir(f.live)); err != nil {
		return err
	}
	return v.unmounted(func(e entries) error {
		if err := v.cut("read back"); err != nil {
			return err
		}
		if err := same(ctx, e, f.fresh, want); err != nil {
			return err
		}
		if err := v.cut("switch"); err != nil {
			return err
		}
		// Beyond this point there is nothing to interrupt.
		if err := e.replace(f); err != nil {
			return err
		}
		return same(context.WithoutCancel(ctx), e, f.live, want)
	})
}

// same reads a file back, as the firmware of the board would.
func same(ctx context.Context, e entries, name string, want []byte) error {
	got, err := e.sum(ctx, name)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("read back %s: sha256 is %x, want %x", name, got[:8], want[:8])
	}
	return err
}

func (v *Volume) cut(point string) error {
	if v.fault == nil {
		return nil
	}
	return v.fault(point)
}

// entries changes the entries of a folder while the volume is not mounted.
type entries interface {
	// claim sees to it that fresh may be written, or made: no cluster of it is
	// another file's. What was previous until now is given up for it.
	claim(f firmware) error
	// sum reads a file from the medium.
	sum(ctx context.Context, name string) ([]byte, error)
	// mend makes a file empty whose clusters are free, or another file's too.
	mend(name string) error
	// replace makes fresh live, and what was live previous, in one step.
	replace(f firmware) error
}
