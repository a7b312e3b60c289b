package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// qmpTimeout bounds one exchange where the caller's context does not. An emulated machine
// on a busy host can hold QEMU's main loop for a while.
const qmpTimeout = 30 * time.Second

// QMP is a connection to QEMU's control socket. QEMU serves one connection at a time; the
// next one waits, so hold it no longer than needed. It is not for concurrent use.
type QMP struct {
	conn net.Conn
	dec  *json.Decoder
}

// QMPError is a command that QEMU refused.
type QMPError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

// Error returns QEMU's own words.
func (e *QMPError) Error() string { return fmt.Sprintf("qemu %s: %s", e.Command, e.Desc) }

// message is anything QEMU says: the greeting, an answer or an event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *QMPError       `json:"error"`
	Event    string          `json:"event"`
}

// NewQMP speaks the greeting on conn, which it owns from then on.
func NewQMP(ctx context.Context, conn net.Conn) (*QMP, error) {
	q := &QMP{conn: conn, dec: json.NewDecoder(bufio.NewReader(io.LimitReader(conn, 64<<20)))}
	stop := q.bound(ctx)
	defer stop()
	var hello message
	if err := q.dec.Decode(&hello); err != nil {
		conn.Close()
		return nil, fmt.Errorf("read greeting of qemu: %w", cause(ctx, err))
	}
	if hello.Greeting == nil {
		conn.Close()
		return nil, errors.New("read greeting of qemu: not a QMP socket")
	}
	if err := q.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

// Do runs one command. Args is marshalled as its arguments unless nil, the answer goes into
// result unless that is nil. Events that arrive meanwhile are dropped.
func (q *QMP) Do(ctx context.Context, command string, args, result any) error {
	stop := q.bound(ctx)
	defer stop()
	req := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args}
	if err := json.NewEncoder(q.conn).Encode(req); err != nil {
		return fmt.Errorf("qemu %s: %w", command, cause(ctx, err))
	}
	for {
		var m message
		if err := q.dec.Decode(&m); err != nil {
			return fmt.Errorf("qemu %s: %w", command, cause(ctx, err))
		}
		switch {
		case m.Error != nil:
			m.Error.Command = command
			return m.Error
		case m.Return != nil:
			if result == nil {
				return nil
			}
			if err := json.Unmarshal(m.Return, result); err != nil {
				return fmt.Errorf("qemu %s: parse answer: %w", command, err)
			}
			return nil
		case m.Event == "":
			return fmt.Errorf("qemu %s: answer is neither result nor error", command)
		}
	}
}

// Close ends the connection; the machine goes on.
func (q *QMP) Close() error { return q.conn.Close() }

// bound makes reads and writes end with the context, and in any case after qmpTimeout.
func (q *QMP) bound(ctx context.Context) (stop func()) {
	// Not the context's own deadline: the connection's would pass a moment before it.
	q.conn.SetDeadline(time.Now().Add(qmpTimeout))
	cancel := context.AfterFunc(ctx, func() { q.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { cancel() }
}

// cause prefers the reason why a context ended over the time-out it led to.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
