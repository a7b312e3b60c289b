package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// gear spreads the values of a byte over 64 bits. Any table of random numbers does; this one is
// the beginnings of the SHA-256 of "gear" and the byte.
var gear = func() (table [256]uint64) {
	for i := range table {
		sum := sha256.Sum256([]byte{'g', 'e', 'a', 'r', byte(i)})
		table[i] = binary.LittleEndian.Uint64(sum[:])
	}
	return table
}()

// maxima finds the places to cut: behind a byte whose rolling hash, over the 64 bytes up to it, is
// the largest within reach bytes before and after it. The first of equal ones counts.
//
// So a cut depends on what is within reach of it and on nothing else, least of all on where the
// chunk began: behind a change, cuts are where they were at once. Cuts are further apart than reach
// and on average twice that. Source: Bjørner, Blass, Gurevich, Content-Dependent Chunking for
// Differential Compression, the Local Maximum Approach, J. Computer and System Sciences 76, 2010.
//
// Only hashes from floor up are looked at, which is sixteen in the reach of a cut on average. Where
// there are none, as in a stretch of equal bytes, there is no cut.
type maxima struct {
	reach int64
	floor uint64
	hash  uint64
	pos   int64 // of the next byte
	// Those that no later one within reach is larger than, by place and with falling hashes. The
	// last that was taken out in front was larger than the first that is left, if it was there with it.
	left  []peak
	taken int64
}

type peak struct {
	pos  int64
	hash uint64
}

func newMaxima(avg int64) *maxima {
	reach := max(avg/2, 1)
	const looked = 16
	floor := ^uint64(0) / uint64(max(2*reach/looked, 1)) // the share of all hashes
	return &maxima{reach: reach, floor: -floor, taken: -reach - 1}
}

// scan goes through the next bytes and gives the offsets to cut at to fn, each once it is certain.
func (m *maxima) scan(b []byte, fn func(int64)) {
	h := m.hash
	for i, c := range b {
		h = h<<1 + gear[c]
		if h >= m.floor {
			m.add(peak{m.pos + int64(i), h}, fn)
		}
	}
	m.hash = h
	m.pos += int64(len(b))
	m.settle(m.pos, fn)
}

func (m *maxima) add(p peak, fn func(int64)) {
	m.settle(p.pos, fn)
	n := len(m.left)
	for n > 0 && m.left[n-1].hash < p.hash {
		n--
	}
	m.left = m.left[:n]
	if n == 0 || m.left[n-1].hash > p.hash {
		m.left = append(m.left, p)
	}
}

// settle decides on all whose reach ends before pos.
func (m *maxima) settle(pos int64, fn func(int64)) {
	n := 0
	for ; n < len(m.left) && m.left[n].pos+m.reach < pos; n++ {
		p := m.left[n].pos
		if p-m.taken > m.reach && p >= m.reach {
			fn(p + 1)
		}
		m.taken = p
	}
	m.left = m.left[:copy(m.left, m.left[n:])]
}

// end decides on those that are left at the end of the stream.
func (m *maxima) end(fn func(int64)) { m.settle(m.pos+m.reach+1, fn) }

// readSize is how much is read at a time.
const readSize = 64 << 10

// split cuts r into chunks, the first of which lies at offset, and gives each
// to fn. It returns the offset at the end of r.
func split(ctx context.Context, r io.Reader, s sizes, offset int64, fn func(Entry, []byte) error) (int64, error) {
	m := newMaxima(s.avg)
	start := offset
	// What was read and belongs to no chunk yet. A cut is certain only when its reach was read.
	var buf []byte
	var cuts []int64
	note := func(at int64) { cuts = append(cuts, start+at) }
	emit := func(size int64) error {
		e := Entry{Offset: offset, Size: size, ID: Sum(buf[:size])}
		if err := fn(e, buf[:size]); err != nil {
			return err
		}
		offset, buf = e.End(), buf[size:]
		return nil
	}
	// upTo cuts what is longer than a chunk may be until at most rest bytes are left before at.
	upTo := func(at, rest int64) error {
		for at-offset > rest {
			if err := emit(min(at-offset, s.max)); err != nil {
				return err
			}
		}
		return nil
	}
	block := make([]byte, readSize)
	for {
		if err := ctx.Err(); err != nil {
			return offset, err
		}
		n, err := r.Read(block)
		buf = append(buf, block[:n]...)
		m.scan(block[:n], note)
		if err == io.EOF {
			m.end(note)
		} else if err != nil {
			return offset, fmt.Errorf("read image at %d: %w", offset+int64(len(buf)), err)
		}
		for _, at := range cuts {
			if err := upTo(at, 0); err != nil {
				return offset, err
			}
		}
		cuts = cuts[:0]
		// Before here there is no other cut.
		if err := upTo(start+m.pos-m.reach, s.max); err != nil {
			return offset, err
		}
		if err == io.EOF {
			return offset, upTo(offset+int64(len(buf)), 0)
		}
	}
}
