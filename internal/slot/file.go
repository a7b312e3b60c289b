package slot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// ReadRecord reads the device record at path. Like [ParseRecord] it returns the
// zero Record along with the error, and callers that only report go on with it.
func ReadRecord(path string) (Record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("read device record: %w", err)
	}
	r, err := ParseRecord(b)
	if err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// WriteRecord stores r at path in place of the older half, with the next sequence
// number whatever r.Seq says, and syncs it. The file keeps its size; it must exist.
// Nothing is written if the newest half already says the same.
func WriteRecord(path string, r Record) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write device record: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write device record: %w", cerr)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("write device record: %w", err)
	}
	if info.Size() != RecordSize {
		return fmt.Errorf("write device record %s: file has %d bytes, want %d", path, info.Size(), RecordSize)
	}
	if err := store(f, r); err != nil {
		return fmt.Errorf("write device record %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync device record: %w", err)
	}
	return nil
}

func store(f interface {
	io.ReaderAt
	io.WriterAt
}, r Record) error {
	b := make([]byte, RecordSize)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		// Unreadable sectors are healed by writing them; what they held is lost.
		clear(b)
	}
	old, err := ParseRecord(b)
	if err != nil && !errors.Is(err, ErrRecordDamaged) {
		return err
	}
	r.Seq = old.Seq
	if old.Seq > 0 && same(r, old) {
		return nil
	}
	r.Seq++
	half, offset, err := MarshalRecord(r)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(half, offset)
	return err
}

// same says whether two records are stored as the same bytes.
func same(r, old Record) bool {
	a, errA := encode(tidy(r))
	b, errB := encode(tidy(old))
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
