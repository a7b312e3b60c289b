package chunk

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// A Fetcher gives stretches of the image an index describes.
//
// Fetch returns a reader over exactly length bytes from offset on, followed by
// io.EOF. A reader that ends early must return an error other than io.EOF,
// never fewer bytes in silence. The bytes need not be right: the caller
// verifies them. Waiting, in Fetch and in Read, ends with the context. Fetch may
// be called, and readers be read, from several goroutines. Closing a reader
// before its end is allowed.
//
// A Fetcher may have a method Sequential() bool. While it is true, ranges are
// fetched one after the other, whatever [Options] say.
//
// Package chunktest holds the contract as a test suite.
type Fetcher interface {
	Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// A Target is a file or block device to assemble an image in. Bytes that
// cannot be read count as missing.
type Target interface {
	io.ReaderAt
	io.WriterAt
}

// An InvalidError says that a chunk's bytes are not what its name promises.
type InvalidError struct {
	Entry  Entry
	Sum    ID     // what the bytes are
	Source string // where they came from
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("verify chunk %.16s at offset %d from %s: its SHA-256 is %.16s", e.Entry.ID, e.Entry.Offset, e.Source, e.Sum)
}

// A MissingError says that a chunk was found nowhere.
type MissingError struct {
	Entry Entry
	Err   error // why it could not be fetched; nil when there was no fetcher
}

func (e *MissingError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("find chunk %.16s at offset %d: no source holds it", e.Entry.ID, e.Entry.Offset)
	}
	return fmt.Sprintf("fetch chunk %.16s at offset %d: %v", e.Entry.ID, e.Entry.Offset, e.Err)
}

func (e *MissingError) Unwrap() error { return e.Err }

// Options of [Assemble]. The zero value is usable.
type Options struct {
	// Merging says how ranges are formed.
	Merging Merging
	// OnPlan, if set, sees the plan before the first byte is written. Its
	// error ends Assemble.
	OnPlan func(*Plan) error
	// OnChunk, if set, gets every chunk in order, verified, once it is in its
	// place. data is valid until it returns. Its error ends Assemble.
	OnChunk func(offset int64, data []byte) error
	// Parallel is how many ranges may be open at a time. Zero means one.
	Parallel int
	// HoldLast leaves the last chunk unwritten. It is verified and given to
	// OnChunk; the caller writes it once all before it is durable.
	HoldLast bool
}

// Stats say what Assemble did. Kept, Reused and Fetched count chunks; a chunk
// copied within the target counts as reused. FetchedBytes is everything that
// was asked of the fetcher, so it includes bytes between needed chunks.
type Stats struct {
	Chunks, Kept, Reused, Fetched        int
	KeptBytes, ReusedBytes, FetchedBytes int64
	Requests                             int
	WrittenBytes                         int64 // what differed and was written
}

// Assemble makes dst hold the image that target describes. For every chunk,
// in order: bytes that are right already are kept; a chunk that a seed holds is
// copied; anything else is fetched. Where that would cost more than the whole image, the whole
// image is fetched. Only blocks that differ are written.
//
// After an error, a cut or a crash, calling it again continues: what was
// written is found by its content. Errors that callers branch on are
// [*InvalidError], [*MissingError] and whatever the fetcher returned.
func Assemble(ctx context.Context, dst Target, target *Index, seeds []Seed, fetch Fetcher, opts Options) (Stats, error) {
	kept, err := Scan(ctx, dst, target)
	if err != nil {
		return Stats{}, err
	}
	p := MakePlan(target, kept, seeds, opts.Merging).OrFullImage(target)
	if opts.OnPlan != nil {
		if err := opts.OnPlan(p); err != nil {
			return Stats{}, err
		}
	}
	a := &assembly{
		dst: dst, target: target, seeds: seeds, fetch: fetch, opts: opts, plan: p,
		data: make([]byte, target.Max), old: make([]byte, target.Max),
	}
	defer a.close()
	for i := range target.Chunks {
		if err := ctx.Err(); err != nil {
			return a.stats, err
		}
		if err := a.chunk(ctx, i); err != nil {
			return a.stats, err
		}
	}
	return a.stats, nil
}

// Scan says for every chunk of target whether r holds it in its place.
func Scan(ctx context.Context, r io.ReaderAt, target *Index) ([]bool, error) {
	kept := make([]bool, len(target.Chunks))
	buf := make([]byte, target.Max)
	for i, e := range target.Chunks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		kept[i] = readChunk(r, e.Offset, e, buf) == nil
	}
	return kept, nil
}

// readChunk reads e from r at the given place and verifies it.
func readChunk(r io.ReaderAt, at int64, e Entry, buf []byte) error {
	b := buf[:e.Size]
	if n, err := r.ReadAt(b, at); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if sum := Sum(b); sum != e.ID {
		return &InvalidError{Entry: e, Sum: sum, Source: "disk"}
	}
	return nil
}

// assembly is the state of one run of Assemble.
type assembly struct {
	dst    Target
	target *Index
	seeds  []Seed
	fetch  Fetcher
	opts   Options
	plan   *Plan
	stats  Stats

	data, old []byte // the chunk at hand, and what the target holds there

	ahead *ahead // nil before the first range
	open  opened // range that is read; its Range is nil when there is none
	pos   int64  // image offset that its body is at

	misses int // chunks that were not where the plan had them
}

// maxMisses is how many chunks are fetched by requests of their own, because they were not where
// the plan had them. Whoever has so many holds anything: all that follows is fetched then, in one
// request. So a plan of n ranges never takes more than n+maxMisses+1.
const maxMisses = 16

// chunk brings chunk i into its place.
func (a *assembly) chunk(ctx context.Context, i int) error {
	e, step := a.target.Chunks[i], a.plan.Steps[i]
	data := a.data[:e.Size]
	a.stats.Chunks++

	if step.Action == Keep && (a.opts.OnChunk == nil || readChunk(a.dst, e.Offset, e, data) == nil) {
		a.stats.Kept++
		a.stats.KeptBytes += e.Size
		if a.opts.OnChunk == nil {
			return nil
		}
		return a.opts.OnChunk(e.Offset, data)
	}
	switch {
	case step.Action == Copy && readChunk(a.dst, step.From, e, data) == nil,
		step.Action == Reuse && readChunk(a.seeds[step.Seed].Reader, step.From, e, data) == nil:
		a.stats.Reused++
		a.stats.ReusedBytes += e.Size
	default:
		// Either planned, or the place that held the chunk holds it no more.
		if step.Action != Fetch {
			if a.misses++; a.misses > maxMisses {
				a.distrust(i)
			}
		}
		if err := a.fetchChunk(ctx, i, data); err != nil {
			return err
		}
		a.stats.Fetched++
	}
	if !(a.opts.HoldLast && i == len(a.target.Chunks)-1) {
		if err := a.write(e, data); err != nil {
			return err
		}
	}
	if a.opts.OnChunk != nil {
		return a.opts.OnChunk(e.Offset, data)
	}
	return nil
}

// blockSize is the unit in which written and existing bytes are compared.
const blockSize = 4096

// write puts data in the place of e, leaving alone the blocks at either end
// that hold the right bytes: flash wears by writing, not by reading.
func (a *assembly) write(e Entry, data []byte) error {
	old := a.old[:e.Size]
	first, end := 0, len(data)
	if n, _ := a.dst.ReadAt(old, e.Offset); n == len(old) {
		for first < end && bytes.Equal(data[first:min(first+blockSize, end)], old[first:min(first+blockSize, end)]) {
			first = min(first+blockSize, end)
		}
		for end > first {
			block := (end - 1) / blockSize * blockSize
			if block < first || !bytes.Equal(data[block:end], old[block:end]) {
				break
			}
			end = block
		}
	}
	if first == end {
		return nil
	}
	n, err := a.dst.WriteAt(data[first:end], e.Offset+int64(first))
	a.stats.WrittenBytes += int64(n)
	if err != nil {
		return fmt.Errorf("write chunk at offset %d: %w", e.Offset, err)
	}
	if n < end-first {
		return fmt.Errorf("write chunk at offset %d: %w", e.Offset, io.ErrShortWrite)
	}
	return nil
}

// fetchChunk reads chunk i from the range it lies in, or by a request of its
// own when it was not planned to be fetched.
func (a *assembly) fetchChunk(ctx context.Context, i int, data []byte) error {
	e := a.target.Chunks[i]
	if a.fetch == nil {
		return &MissingError{Entry: e}
	}
	if a.plan.Steps[i].Action != Fetch {
		body, err := a.request(ctx, e.Offset, e.Size)
		if err != nil {
			return &MissingError{e, err}
		}
		err = readFull(body, data)
		if cerr := body.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return &MissingError{e, err}
		}
		return verify(e, data)
	}
	if err := a.nextRange(ctx); err != nil {
		return &MissingError{e, err}
	}
	if skip := e.Offset - a.pos; skip > 0 {
		n, err := io.CopyN(io.Discard, a.open.body, skip)
		a.pos += n
		if err != nil {
			return &MissingError{e, unexpected(err)}
		}
	}
	if err := readFull(a.open.body, data); err != nil {
		return &MissingError{e, err}
	}
	a.pos = e.End()
	if i == a.open.Last {
		if err := a.closeRange(); err != nil {
			return &MissingError{e, err}
		}
	}
	return verify(e, data)
}

// nextRange makes body read a range, if it reads none.
func (a *assembly) nextRange(ctx context.Context) error {
	if a.open.Range != nil {
		return nil
	}
	if a.ahead == nil {
		a.ahead = openAhead(ctx, a.fetch, a.plan.Ranges, a.opts.Parallel)
	}
	o, tries, ok := a.ahead.take(ctx)
	if !ok {
		return ctx.Err() // it ends early only with the context
	}
	a.stats.Requests += tries
	a.stats.FetchedBytes += o.Size
	if o.err != nil {
		return o.err
	}
	a.open, a.pos = o, o.Offset
	return nil
}

func (a *assembly) request(ctx context.Context, offset, size int64) (io.ReadCloser, error) {
	a.stats.Requests++
	a.stats.FetchedBytes += size
	return a.fetch.Fetch(ctx, offset, size)
}

// closeRange ends the open range, if any.
func (a *assembly) closeRange() error {
	o := a.open
	if o.Range == nil {
		return nil
	}
	a.open = opened{}
	err := o.body.Close()
	a.ahead.done(o)
	return err
}

// close ends everything that was fetched.
func (a *assembly) close() {
	_ = a.closeRange() // after the last chunk it was nil, before it there is a better error
	if a.ahead != nil {
		a.ahead.stop()
		a.ahead = nil
	}
}

// distrust makes the plan from chunk i on one range with everything.
func (a *assembly) distrust(i int) {
	a.close()
	a.plan = a.plan.fetchFrom(a.target, i)
}

func verify(e Entry, data []byte) error {
	if sum := Sum(data); sum != e.ID {
		return &InvalidError{Entry: e, Sum: sum, Source: "server"}
	}
	return nil
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return unexpected(err)
}

// unexpected makes an early end an error that nobody takes for a normal one.
func unexpected(err error) error {
	if err == io.EOF { // not one that is somebody's cause: that one has more to say
		return io.ErrUnexpectedEOF
	}
	return err
}
