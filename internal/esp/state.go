package esp

import (
	"errors"
	"fmt"
	"os"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/slot"
)

const recordName = folder + "/record"

// stateNames are the boot state's file and its copy.
func stateNames() [2]string {
	return [2]string{folder + "/" + bootstate.Files[0], folder + "/" + bootstate.Files[1]}
}

// State reads the boot state as the boot loader does: from the copy, where the file
// cannot be read. Only if neither can be read is that an error.
func (v *Volume) State() (bootstate.State, error) {
	var errs []error
	for _, name := range stateNames() {
		s, err := bootstate.ReadFile(v.Path(name))
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return bootstate.State{}, errors.Join(errs...)
}

// SetState writes the boot state in place, then its copy, and waits until each is on
// the disk: at no moment are both at risk. A file that is missing or has the wrong size
// is made anew: there is nothing in it that could still be lost.
func (v *Volume) SetState(s bootstate.State) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("write boot state: %w", err)
	}
	for _, name := range stateNames() {
		if err := v.shape(name, bootstate.BlockSize, s.Marshal()); err != nil {
			return fmt.Errorf("write boot state: %w", err)
		}
		if err := bootstate.WriteFile(v.Path(name), s); err != nil {
			return err
		}
		if err := v.flush(); err != nil {
			return err
		}
	}
	return nil
}

// Record reads the device record. With an error the zero record is returned,
// and a caller that only reports can go on with it.
func (v *Volume) Record() (slot.Record, error) {
	return slot.ReadRecord(v.Path(recordName))
}

// SetRecord writes the device record over its older half and waits until it is
// on the disk.
func (v *Volume) SetRecord(r slot.Record) error {
	if err := v.shape(recordName, slot.RecordSize, make([]byte, slot.RecordSize)); err != nil {
		return fmt.Errorf("write device record: %w", err)
	}
	if err := slot.WriteRecord(v.Path(recordName), r); err != nil {
		return err
	}
	return v.flush()
}

// shape makes sure that a file of fixed size exists, with content if it has to
// be made.
func (v *Volume) shape(name string, size int64, content []byte) error {
	st, err := os.Stat(v.Path(name))
	if err == nil && st.Size() == size {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(v.Path(folder), 0o700); err != nil {
		return err
	}
	if err := overwrite(v.Path(name), content); err != nil {
		return err
	}
	return v.flush()
}

// flush is sync with the volume's name in its error.
func (v *Volume) flush() error {
	if err := v.sync(); err != nil {
		return fmt.Errorf("sync %s: %w", v.name, err)
	}
	return nil
}
