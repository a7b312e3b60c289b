package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What the kernel tells of processes, and where in a message: behind the headers of netlink and
// of the connector.
const (
	connectorProcess = 1 // both its group and its number
	listen, ignore   = 1, 2

	eventAt, dataAt = 16 + 20, 16 + 20 + 16

	eventFork = 0x1
	eventExec = 0x2
	eventExit = 0x80000000
)

// family are the processes that came of one.
type family struct {
	members map[uint32]bool
	execs   int
}

// event takes one message. Threads are none of its business.
func (f *family) event(m []byte) {
	if len(m) < dataAt+16 {
		return
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(m[dataAt+4*i:]) }
	switch what := binary.NativeEndian.Uint32(m[eventAt:]); what {
	case eventFork:
		if of, pid, group := word(1), word(2), word(3); pid == group && f.members[of] {
			f.members[pid] = true
		}
	case eventExec:
		if f.members[word(1)] {
			f.execs++
		}
	case eventExit:
		if word(0) == word(1) {
			delete(f.members, word(0))
		}
	}
}

// count runs something and returns how many programs were started for it, by this process and
// by all that came of it until the last has ended. The kernel tells each of them, so that
// nothing is traced, and nothing is missed: messages that were lost are an error.
func (h *flakeHost) count(ctx context.Context, run func(context.Context) error) (float64, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return 0, fmt.Errorf("listen to the kernel's events of processes: %w", err)
	}
	defer unix.Close(s)
	err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: connectorProcess})
	}
	if err == nil {
		err = tellConnector(s, listen)
	}
	if err != nil {
		return 0, fmt.Errorf("listen to the kernel's events of processes: %w", err)
	}
	defer func() { _ = tellConnector(s, ignore) }()
	f := &family{members: map[uint32]bool{uint32(os.Getpid()): true}}
	var over atomic.Bool
	heard := make(chan error, 1)
	go func() { heard <- f.listen(s, &over) }()
	err = run(ctx)
	if err == nil {
		err = h.settle(ctx)
	}
	over.Store(true)
	if err := errors.Join(err, <-heard); err != nil {
		return 0, err
	}
	if f.execs == 0 {
		return 0, errors.New("the kernel tells nothing of processes: this has to run in its first process namespace")
	}
	return float64(f.execs), nil
}

// listen reads what there is until it is over.
func (f *family) listen(s int, over *atomic.Bool) error {
	buffer := make([]byte, 4096)
	for {
		last := over.Load() // before a look: what came before that is read
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s), Events: unix.POLLIN}}, 50)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0 && last:
			return nil
		case n == 0:
			continue
		}
		if n, err = unix.Read(s, buffer); err != nil {
			return fmt.Errorf("read the kernel's events of processes: %w", err)
		}
		f.event(buffer[:n])
	}
}

// tellConnector says whether events are wanted.
func tellConnector(s int, what uint32) error {
	m := make([]byte, 40)
	order := binary.NativeEndian
	order.PutUint32(m, uint32(len(m)))
	order.PutUint16(m[4:], unix.NLMSG_DONE)
	order.PutUint32(m[16:], connectorProcess)
	order.PutUint32(m[20:], connectorProcess)
	order.PutUint16(m[32:], 4)
	order.PutUint32(m[36:], what)
	return unix.Sendto(s, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}
