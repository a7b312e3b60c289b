package serve

import (
	"bufio"
	"io"
	"sync"
	"time"
)

// LogWriter passes on what is written to it in larger pieces, at most a fifth of a second later:
// a line for each request would cost as much as a small answer. Whoever ends closes it.
type LogWriter struct {
	mu   sync.Mutex
	w    *bufio.Writer
	stop chan struct{}
	once sync.Once
}

const logDelay = 200 * time.Millisecond

// NewLogWriter returns one that writes to w.
func NewLogWriter(w io.Writer) *LogWriter {
	l := &LogWriter{w: bufio.NewWriterSize(w, 64<<10), stop: make(chan struct{})}
	go func() {
		t := time.NewTicker(logDelay)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				_ = l.flush() // the next Write, or Close, has the error
			case <-l.stop:
				return
			}
		}
	}()
	return l
}

// Write never splits a line between two pieces that are passed on, unless it is longer than they.
func (l *LogWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b) > l.w.Available() {
		if err := l.w.Flush(); err != nil {
			return 0, err
		}
	}
	return l.w.Write(b)
}

func (l *LogWriter) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Flush()
}

// Close passes on what is left.
func (l *LogWriter) Close() error {
	l.once.Do(func() { close(l.stop) })
	return l.flush()
}
