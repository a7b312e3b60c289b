// Package cutdisk is a disk for tests that pull the plug: what was written to it and not
// flushed is lost, kept or torn when the power is cut, as on a real disk with a cache.
//
// Ending QEMU does not do that: what the guest wrote is in the host's page cache and stays.
// So a test serves a [Disk] to QEMU over NBD with [Serve], ends QEMU, and calls [Disk.Cut]:
//
//	d, err := cutdisk.New(image, size, dir)
//	l, err := net.Listen("unix", "disk.sock")
//	s := cutdisk.Serve(l, d)
//	// QEMU runs with -blockdev driver=nbd,... and is killed
//	s.Wait()
//	report := d.Cut(cutdisk.Random, rand.New(rand.NewPCG(seed, 0)))
//
// The model: the unit that is written whole or not at all is a sector of 512 bytes. A flush
// that was answered makes all writes answered before it durable. Any other write may have
// reached the disk or not, whole or in part, whatever came before or after it; but of the
// writes to one sector a later one is never undone in favour of an earlier one that was
// itself not durable. Writes are made durable by themselves, oldest first, when more than
// [CacheSize] bytes are waiting, so a guest that never flushes loses only the end. Discard is
// not offered, a guest that trims keeps its data.
//
// The content lies over a base that is never written, in a sparse file of its own, so making
// a disk costs nothing, and [Disk.Freeze] turns a disk into the base of others.
//
// A Disk may be used by several goroutines at once. It is for tests: what is durable is
// durable against a cut of the machine under test, not of the host.
package cutdisk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
)

const (
	// SectorSize is what is written whole or not at all.
	SectorSize = 512

	// CacheSize is how many written bytes may wait for a flush.
	CacheSize = 32 << 20

	blockSize = 4096 // of the layer over the base
)

// Disk is a block device with a volatile write cache.
type Disk struct {
	size int64

	mu      sync.Mutex
	durable layer
	queue   []*write // waiting for a flush, oldest first
	queued  int64    // bytes in queue
	newest  map[int64]sector
	frozen  bool

	writes  int64
	left    int64         // writes until the disk stops; 0: it does not
	stopped chan struct{} // closed when it stops
	resumed chan struct{} // closed when the power is cut; nil: not stopped
}

// write is one that was answered and not flushed.
type write struct {
	off  int64
	data []byte
}

// sector is where the newest content of a sector waits.
type sector struct {
	w  *write
	at int
}

// New returns a disk of size bytes that begins with the content of base (nil: zeros) and
// keeps what is written in a new file in dir.
func New(base io.ReaderAt, size int64, dir string) (*Disk, error) {
	if size <= 0 || size%SectorSize != 0 {
		return nil, fmt.Errorf("make disk of %d bytes: want a multiple of %d", size, SectorSize)
	}
	f, err := os.CreateTemp(dir, "disk-*")
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	return &Disk{
		size:    size,
		durable: layer{base: base, f: f, have: make([]uint64, (size/blockSize+64)/64+1)},
		newest:  map[int64]sector{},
	}, nil
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Grow makes the disk larger; what is new are zeros. Nobody may be using it.
func (d *Disk) Grow(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if size < d.size || size%SectorSize != 0 || d.frozen {
		return fmt.Errorf("grow disk of %d bytes to %d: want a multiple of %d that is larger", d.size, size, SectorSize)
	}
	have := make([]uint64, (size/blockSize+64)/64+1)
	copy(have, d.durable.have)
	d.size, d.durable.have = size, have
	return nil
}

// Close removes the disk's file. A disk that others are made of must live as long as they.
func (d *Disk) Close() error {
	return errors.Join(os.Remove(d.durable.f.Name()), d.durable.f.Close())
}

// Freeze makes all writes durable and the disk read-only, to be the base of others.
func (d *Disk) Freeze() error {
	if err := d.Flush(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = true
	return nil
}

// Writes returns how many writes there were, to choose one for [Disk.StopAt].
func (d *Disk) Writes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// StopAt makes the disk stop after n more writes: what comes then is neither worked off nor
// answered until [Disk.PowerOff], so that the power can be cut at exactly this write. The
// channel is closed when the disk has stopped.
func (d *Disk) StopAt(n int64) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.stopped = n, make(chan struct{})
	return d.stopped
}

// PowerOff ends all accesses that a stopped disk holds back, with an error. It is to be
// called when nobody is left who would see the errors, before [Disk.Cut].
func (d *Disk) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = 0
	if d.resumed != nil {
		close(d.resumed)
		d.resumed = nil
	}
}

// enter locks the disk for an access that changes it, unless the disk has stopped.
func (d *Disk) enter() error {
	d.mu.Lock()
	if d.resumed != nil {
		wait := d.resumed
		d.mu.Unlock()
		<-wait
		return errors.New("disk has no power")
	}
	return nil
}

func (d *Disk) check(n int, off int64) error {
	if off < 0 || off > d.size || int64(n) > d.size-off {
		return fmt.Errorf("access to %d bytes at %d: past the end of the disk at %d", n, off, d.size)
	}
	return nil
}

// ReadAt reads what was written last, durable or not.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	want := len(p)
	if off < 0 {
		return 0, d.check(len(p), off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= d.size {
		return 0, io.EOF // as a base of a disk that has grown
	}
	p = p[:min(int64(len(p)), d.size-off)]
	if err := d.durable.read(p, off); err != nil {
		return 0, err
	}
	if len(d.newest) > 0 {
		for s := off / SectorSize; s*SectorSize < off+int64(len(p)); s++ {
			if n, ok := d.newest[s]; ok {
				data := n.w.data[n.at : n.at+SectorSize]
				if at := s*SectorSize - off; at >= 0 {
					copy(p[at:], data)
				} else {
					copy(p, data[-at:])
				}
			}
		}
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// WriteAt writes into the cache. Parts of sectors are filled up from what is there.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check(len(p), off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	begin := off / SectorSize * SectorSize
	end := (off + int64(len(p)) + SectorSize - 1) / SectorSize * SectorSize
	w := &write{off: begin, data: make([]byte, end-begin)}
	if begin != off || end != off+int64(len(p)) {
		if _, err := d.ReadAt(w.data, begin); err != nil {
			return 0, err
		}
	}
	copy(w.data[off-begin:], p)

	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.mu.Unlock()
	if d.frozen {
		return 0, errors.New("write to a frozen disk")
	}
	d.writes++
	d.queue = append(d.queue, w)
	d.queued += int64(len(w.data))
	for at := 0; at < len(w.data); at += SectorSize {
		d.newest[(begin+int64(at))/SectorSize] = sector{w, at}
	}
	for d.queued > CacheSize {
		if err := d.retire(); err != nil {
			return 0, err
		}
	}
	if d.left > 0 {
		if d.left--; d.left == 0 {
			d.resumed = make(chan struct{})
			close(d.stopped)
		}
	}
	return len(p), nil
}

// retire makes the oldest waiting write durable.
func (d *Disk) retire() error {
	w := d.queue[0]
	if err := d.durable.write(w.data, w.off); err != nil {
		return err
	}
	d.queue[0] = nil
	d.queue = d.queue[1:]
	d.queued -= int64(len(w.data))
	for at := 0; at < len(w.data); at += SectorSize {
		if s := (w.off + int64(at)) / SectorSize; d.newest[s].w == w {
			delete(d.newest, s)
		}
	}
	return nil
}

// Flush makes all writes durable.
func (d *Disk) Flush() error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for len(d.queue) > 0 {
		if err := d.retire(); err != nil {
			return err
		}
	}
	d.queue = nil
	return nil
}

// Mode says what a power cut does to writes that were not flushed.
type Mode int

// Modes of a cut.
const (
	Random Mode = iota // each write is kept, lost or torn
	Lose               // all are lost
	Keep               // all are kept
)

// Report says what a cut did to the writes that were not flushed.
type Report struct {
	Kept, Lost, Torn int
}

// String returns the report for logs.
func (r Report) String() string {
	return fmt.Sprintf("of %d writes not flushed %d kept, %d lost, %d torn", r.Kept+r.Lost+r.Torn, r.Kept, r.Lost, r.Torn)
}

// Cut cuts the power: the cache is empty afterwards and the disk holds what is left. The same
// writes and the same random source give the same result.
func (d *Disk) Cut(mode Mode, r *rand.Rand) (Report, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rep Report
	for _, w := range d.queue {
		reached := fate(mode, r, len(w.data)/SectorSize)
		n := 0
		for i, ok := range reached {
			if !ok {
				continue
			}
			n++
			if err := d.durable.write(w.data[i*SectorSize:(i+1)*SectorSize], w.off+int64(i)*SectorSize); err != nil {
				return rep, err
			}
		}
		switch n {
		case 0:
			rep.Lost++
		case len(reached):
			rep.Kept++
		default:
			rep.Torn++
		}
	}
	d.queue, d.queued = nil, 0
	clear(d.newest)
	return rep, nil
}

// fate says which sectors of a write reach the disk.
func fate(mode Mode, r *rand.Rand, sectors int) []bool {
	reached := make([]bool, sectors)
	until, coin := 0, false
	switch mode {
	case Keep:
		until = sectors
	case Random:
		switch r.IntN(4) {
		case 0: // lost
		case 1:
			until = sectors
		case 2: // cut off at some sector
			until = r.IntN(sectors + 1)
		default: // holes
			until, coin = sectors, true
		}
	}
	for i := range until {
		reached[i] = !coin || r.IntN(2) == 0
	}
	return reached
}
