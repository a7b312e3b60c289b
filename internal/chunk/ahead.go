package chunk

import (
	"context"
	"io"
)

// ahead opens the ranges of a plan in their order, some of them before they are needed. Nobody
// reads these yet: what the server sends waits in buffers of the connection, so the time between
// request and answer is hidden, and how much may wait there is for the fetcher to bound.
//
// A server may lose patience with a range that nobody reads; to continue it is the fetcher's
// part. A range that could not be opened before its turn gets another try in its turn, see take:
// what was short then, such as connections that the server has left, need not be now.
type ahead struct {
	fetch  Fetcher
	ranges chan opened
	slots  chan struct{} // one element for each range that is open
	cancel context.CancelFunc
}

// opened is a range with its answer.
type opened struct {
	*Range
	body   io.ReadCloser
	err    error
	closed chan struct{} // closed with the range
}

// openAhead keeps up to n ranges open. They come from take; who closes one calls done.
func openAhead(ctx context.Context, fetch Fetcher, ranges []Range, n int) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	n = max(1, n)
	a := &ahead{fetch: fetch, ranges: make(chan opened, n), slots: make(chan struct{}, n), cancel: cancel}
	go func() {
		defer close(a.ranges)
		for i := range ranges {
			select {
			case a.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			o := opened{Range: &ranges[i], closed: make(chan struct{})}
			o.body, o.err = fetch.Fetch(ctx, o.Offset, o.Size)
			a.ranges <- o // there is room: no more are open than it holds
			if c, ok := fetch.(interface{ Sequential() bool }); o.err != nil || ok && c.Sequential() {
				select {
				case <-o.closed:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return a
}

// take returns the next range, or false when there is none or the context has ended.
func (a *ahead) take(ctx context.Context) (o opened, tries int, ok bool) {
	tries = 1
	select {
	case o, ok = <-a.ranges:
		if ok && o.err != nil && ctx.Err() == nil {
			o.body, o.err = a.fetch.Fetch(ctx, o.Offset, o.Size)
			tries++
		}
	default:
		o, ok = <-a.ranges
	}
	return o, tries, ok
}

// done makes room for another range.
func (a *ahead) done(o opened) {
	close(o.closed)
	<-a.slots
}

// stop closes what was opened and not taken.
func (a *ahead) stop() {
	a.cancel()
	for o := range a.ranges {
		if o.err == nil {
			_ = o.body.Close() // nobody has read from it
		}
	}
}
