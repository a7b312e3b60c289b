package chunk

import (
	"context"
	"io"
)

// ahead opens the ranges of a plan in their order, some of them before they are needed. Nobody
// reads these yet: what the server sends waits in the kernel's buffers, so the time between
// request and answer is hidden and no memory is taken.
type ahead struct {
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

// openAhead keeps up to n ranges open. They are taken from a.ranges; who closes one calls done.
func openAhead(ctx context.Context, fetch Fetcher, ranges []Range, n int) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	n = max(1, n)
	a := &ahead{ranges: make(chan opened, n), slots: make(chan struct{}, n), cancel: cancel}
	go func() {
		defer close(a.ranges)
		for i := range ranges {
			select {
			case a.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			body, err := fetch.Fetch(ctx, ranges[i].Offset, ranges[i].Size)
			closed := make(chan struct{})
			select {
			case a.ranges <- opened{&ranges[i], body, err, closed}:
			case <-ctx.Done():
				if err == nil {
					_ = body.Close() // nobody has read from it
				}
				return
			}
			if err != nil {
				return
			}
			if c, ok := fetch.(interface{ Sequential() bool }); ok && c.Sequential() {
				select {
				case <-closed:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return a
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
