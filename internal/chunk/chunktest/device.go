package chunktest

import (
	"errors"
	"io"
)

// ErrCut is what a [Device] answers once its power is gone.
var ErrCut = errors.New("power cut")

// A Fault says what happens to the write a [Device] is cut at.
type Fault int

// The faults.
const (
	Drop   Fault = iota // nothing of it arrives
	Half                // its first half arrives
	Garble              // it arrives, but the last sector holds garbage
	Whole               // it arrives, and only then the power goes
	Silent              // nothing of it or of any later write arrives, and no error says so
)

// A Device is a fixed-size target whose power is cut at write number CutAt,
// counted from 0. A negative CutAt means never.
type Device struct {
	Bytes  []byte
	CutAt  int
	Fault  Fault
	Writes int
}

// ReadAt implements io.ReaderAt.
func (d *Device) ReadAt(b []byte, off int64) (int, error) {
	if d.gone() {
		return 0, ErrCut
	}
	if off < 0 || off >= int64(len(d.Bytes)) {
		return 0, io.EOF
	}
	n := copy(b, d.Bytes[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (d *Device) WriteAt(b []byte, off int64) (int, error) {
	if d.gone() {
		return 0, ErrCut
	}
	if off < 0 || off+int64(len(b)) > int64(len(d.Bytes)) {
		return 0, errors.New("write outside the device")
	}
	n := d.Writes
	d.Writes++
	if d.CutAt < 0 || n < d.CutAt {
		return copy(d.Bytes[off:], b), nil
	}
	place := d.Bytes[off : off+int64(len(b))]
	switch d.Fault {
	case Silent:
		return len(b), nil
	case Half:
		copy(place, b[:len(b)/2])
	case Garble:
		copy(place, b)
		for i := max(0, len(place)-512); i < len(place); i++ {
			place[i] ^= 0xa5
		}
	case Whole:
		copy(place, b)
	}
	return 0, ErrCut
}

// gone says whether the power is cut already.
func (d *Device) gone() bool {
	return d.CutAt >= 0 && d.Writes > d.CutAt && d.Fault != Silent
}

// Restore gives the power back for good.
func (d *Device) Restore() {
	d.CutAt = -1
}
