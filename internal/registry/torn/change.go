package torn

import (
	"encoding/binary"
	"math/bits"
)

// change is what the journal has of a block: parts of it as they were to become.
type change struct {
	block  int64 // its place in sectors
	length int   // in sectors
	lsn    uint64
	cancel bool   // the block was given back
	runs   []byte // a bitmap of parts, in words of 32 bits
	data   [][]byte
}

const (
	part       = 128    // bytes to a bit of the bitmap
	itemBuffer = 0x123c // the type of an item that changes a block
	// Flags of such items.
	ofInodes   = 1 << 0
	cancels    = 1 << 1
	ofQuotas   = 7 << 2
	formatHead = 20
)

// parseChange reads the first region of an item. What is written in the processor's byte order is
// little endian wherever EOS runs.
func parseChange(b []byte, lsn uint64) (*change, bool) {
	le := binary.LittleEndian
	if len(b) < formatHead || le.Uint16(b) != itemBuffer {
		return nil, false
	}
	flags, words := le.Uint16(b[4:]), int(le.Uint32(b[16:]))
	if flags&(ofInodes|ofQuotas) != 0 || words < 0 || words > (len(b)-formatHead)/4 {
		return nil, false
	}
	return &change{
		block: int64(le.Uint64(b[8:])), length: int(le.Uint16(b[6:])), lsn: lsn,
		cancel: flags&cancels != 0, runs: b[formatHead:][:words*4],
	}, true
}

// apply puts the change into a block. It tells whether its parts and its bitmap agree.
func (c *change) apply(b []byte) bool {
	at, left := 0, c.data
	for at < len(c.runs)*8 {
		run := c.run(at)
		if run == 0 {
			at++
			continue
		}
		// A run may be in several regions.
		for run > 0 {
			if len(left) == 0 {
				return false
			}
			n := len(left[0]) / part
			if n == 0 || n > run || len(left[0])%part != 0 || (at+n)*part > len(b) {
				return false
			}
			copy(b[at*part:], left[0])
			at, run, left = at+n, run-n, left[1:]
		}
	}
	return len(left) == 0
}

// run is the number of bits set from one on.
func (c *change) run(at int) int {
	n := 0
	for ; at+n < len(c.runs)*8; n++ {
		word := binary.LittleEndian.Uint32(c.runs[(at+n)/32*4:])
		if bits.RotateLeft32(word, -((at+n)%32))&1 == 0 {
			break
		}
	}
	return n
}

// Operations of a record.
const (
	opHead    = 12
	opStart   = 1 << 0
	opCommit  = 1 << 1
	opMore    = 1 << 2 // the region goes on
	opWasMore = 1 << 3 // this is where it goes on
	opUnmount = 1 << 5
)

// changes calls each for every committed change, in the order of commits. Data is kept for wanted blocks.
func (j *journal) changes(wanted func(block int64) bool, each func(*change)) error {
	open := map[uint32]*transaction{}
	next := int64(-1)
	for _, r := range j.records {
		if next >= 0 && r.at != next {
			return nil // a hole; what is behind it was not committed
		}
		next = (r.at + r.sectors()) % j.g.logSectors
		b, whole, err := j.content(r)
		if err != nil {
			return err
		}
		if !whole {
			return nil
		}
		for len(b) >= opHead {
			id, n, flags := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint32(b[4:])), b[9]
			if n < 0 || n > len(b)-opHead {
				break
			}
			region := b[opHead:][:n]
			b = b[opHead+n:]
			t := open[id]
			switch {
			case flags&opStart != 0:
				open[id] = &transaction{lsn: r.lsn, wanted: wanted}
			case t == nil: // it began before the tail
			case flags&opUnmount != 0:
				delete(open, id)
			case flags&opCommit != 0:
				t.finish()
				for _, c := range t.changes {
					each(c)
				}
				delete(open, id)
			case flags&opWasMore != 0:
				t.extend(region)
			case n > 0:
				t.finish()
				t.begin()
				t.extend(region)
			}
		}
	}
	return nil
}

// transaction collects regions: a header, then items, each a format and its data.
type transaction struct {
	lsn     uint64
	wanted  func(block int64) bool
	changes []*change

	headed  bool    // the header is over
	current *change // whose data comes; nil: not wanted
	left    int     // regions of the item that are to come
	region  []byte
	keep    bool
	in      bool // a region has begun
}

func (t *transaction) begin() {
	t.in, t.region = true, nil
	t.keep = t.headed && (t.left == 0 || t.current != nil)
}

func (t *transaction) extend(b []byte) {
	if t.keep {
		t.region = append(t.region, b...)
	}
}

// finish takes the region that is over.
func (t *transaction) finish() {
	if !t.in {
		return
	}
	t.in = false
	switch {
	case !t.headed:
		t.headed = true
	case t.left > 0:
		t.left--
		if t.current != nil {
			t.current.data = append(t.current.data, t.region)
		}
	case len(t.region) >= 4:
		t.current, t.left = nil, max(0, int(binary.LittleEndian.Uint16(t.region[2:]))-1)
		if c, ok := parseChange(t.region, t.lsn); ok {
			t.changes = append(t.changes, c)
			if t.wanted(c.block) {
				t.current = c
			}
		}
	}
}
