package bootstate

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// Files are the names of the boot state's file and of its copy, in the order in which both
// are written and read: the copy counts where the first cannot be read.
var Files = [2]string{"bootstate", "bootstate2"}

// ReadFile reads the boot state from path.
func ReadFile(path string) (State, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return State{}, fmt.Errorf("read boot state: %w", err)
	}
	s, err := Parse(b)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// WriteFile overwrites the boot state at path in place and syncs it. The file must
// exist with its full size: GRUB writes to the file's blocks where they are, and a
// file that never changes its size needs no change of FAT structures that a cut
// could tear. Nothing is written if the file already holds s.
func WriteFile(path string, s State) (err error) {
	if err := s.Check(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write boot state: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write boot state: %w", cerr)
		}
	}()
	if err := overwrite(f, s.Marshal()); err != nil {
		return fmt.Errorf("write boot state %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync boot state: %w", err)
	}
	return nil
}

// file is what overwrite needs of an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	Stat() (os.FileInfo, error)
	Sync() error
}

func overwrite(f file, b []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != BlockSize {
		return fmt.Errorf("file has %d bytes, want %d", info.Size(), BlockSize)
	}
	old := make([]byte, BlockSize)
	if _, err := f.ReadAt(old, 0); err != nil {
		// A sector that a cut left unreadable is healed by writing it.
		clear(old)
	}
	// The second sector is all padding and only differs if something else damaged
	// it. It goes first, so that the write of the first sector completes the state.
	if !bytes.Equal(old[sectorSize:], b[sectorSize:]) {
		if _, err := f.WriteAt(b[sectorSize:], sectorSize); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if bytes.Equal(old[:sectorSize], b[:sectorSize]) {
		return nil
	}
	_, err = f.WriteAt(b[:sectorSize], 0)
	return err
}
