package cutdisk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// The network block device protocol, as far as QEMU needs it: fixed newstyle handshake, one
// export whatever name is asked for, simple replies, read, write and flush.
const (
	nbdMagic       = 0x4e42444d41474943 // NBDMAGIC
	optionMagic    = 0x49484156454f5054 // IHAVEOPT
	optReplyMagic  = 0x3e889045565a9
	requestMagic   = 0x25609513
	replyMagic     = 0x67446698
	flagFixed      = 1 << 0
	flagNoZeroes   = 1 << 1
	hasFlags       = 1 << 0
	sendFlush      = 1 << 2
	optExportName  = 1
	optAbort       = 2
	optInfo        = 6
	optGo          = 7
	repAck         = 1
	repInfo        = 3
	repUnsupported = 1<<31 | 1
	infoExport     = 0
	infoBlockSize  = 3
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	maxRequest     = 32 << 20
	maxOption      = 64 << 10
	errIO          = 5
	errInvalid     = 22
)

// Server serves a disk to whoever connects.
type Server struct {
	l    net.Listener
	disk *Disk

	mu    sync.Mutex
	conns map[net.Conn]bool
	err   error
	open  sync.WaitGroup
}

// Serve serves the disk on l until l is closed by [Server.Close].
func Serve(l net.Listener, d *Disk) *Server {
	s := &Server{l: l, disk: d, conns: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.open.Add(1)
			s.mu.Unlock()
			go func() {
				err := s.serve(conn)
				conn.Close()
				s.mu.Lock()
				delete(s.conns, conn)
				if s.err == nil {
					s.err = err
				}
				s.mu.Unlock()
				s.open.Done()
			}()
		}
	}()
	return s
}

// Wait returns when all that was sent on the connections has been worked off and they are
// closed, which the end of QEMU does. The error is the first that a connection ended with
// other than by closing.
func (s *Server) Wait() error {
	s.open.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends listener and connections.
func (s *Server) Close() error {
	err := s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.open.Wait()
	return err
}

type conn struct {
	r    *bufio.Reader
	w    *bufio.Writer
	disk *Disk
}

func (s *Server) serve(c net.Conn) error {
	x := conn{bufio.NewReaderSize(c, 1<<20), bufio.NewWriterSize(c, 1<<20), s.disk}
	err := x.handshake()
	if err == nil {
		err = x.transmit()
	}
	// A client that is killed leaves in the middle of anything.
	var op *net.OpError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || errors.Is(err, errDone) {
		return nil
	}
	return err
}

// errDone says that the client has ended the connection in good order.
var errDone = errors.New("disconnected")

func (c *conn) put(v ...any) error {
	for _, x := range v {
		if err := binary.Write(c.w, binary.BigEndian, x); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) get(v ...any) error {
	for _, x := range v {
		if err := binary.Read(c.r, binary.BigEndian, x); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) handshake() error {
	if err := c.put(uint64(nbdMagic), uint64(optionMagic), uint16(flagFixed|flagNoZeroes)); err != nil {
		return err
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	var flags uint32
	if err := c.get(&flags); err != nil {
		return err
	}
	for {
		var magic uint64
		var option, n uint32
		if err := c.get(&magic, &option, &n); err != nil {
			return err
		}
		if magic != optionMagic || n > maxOption {
			return fmt.Errorf("nbd option %d: malformed", option)
		}
		if _, err := c.r.Discard(int(n)); err != nil {
			return err
		}
		export := []any{uint64(c.disk.Size()), uint16(hasFlags | sendFlush)}
		switch option {
		case optExportName:
			if err := c.put(export...); err != nil {
				return err
			}
			if flags&flagNoZeroes == 0 {
				if err := c.put(make([]byte, 124)); err != nil {
					return err
				}
			}
			return c.w.Flush()
		case optInfo, optGo:
			info := append([]any{uint64(optReplyMagic), option, uint32(repInfo), uint32(12), uint16(infoExport)}, export...)
			sizes := []any{uint64(optReplyMagic), option, uint32(repInfo), uint32(14), uint16(infoBlockSize), uint32(SectorSize), uint32(blockSize), uint32(maxRequest)}
			ack := []any{uint64(optReplyMagic), option, uint32(repAck), uint32(0)}
			if err := c.put(append(append(info, sizes...), ack...)...); err != nil {
				return err
			}
		case optAbort:
			_ = c.put(uint64(optReplyMagic), option, uint32(repAck), uint32(0))
			_ = c.w.Flush()
			return errDone
		default:
			if err := c.put(uint64(optReplyMagic), option, uint32(repUnsupported), uint32(0)); err != nil {
				return err
			}
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		if option == optGo {
			return nil
		}
	}
}

func (c *conn) transmit() error {
	var head [28]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return err
		}
		command := binary.BigEndian.Uint16(head[6:])
		cookie := head[8:16]
		off, n := int64(binary.BigEndian.Uint64(head[16:])), binary.BigEndian.Uint32(head[24:])
		if binary.BigEndian.Uint32(head[:]) != requestMagic || n > maxRequest {
			return fmt.Errorf("nbd request %d of %d bytes: malformed", command, n)
		}
		if command == cmdDisconnect {
			return errDone
		}
		if int(n) > len(buf) {
			buf = make([]byte, n)
		}
		data := buf[:n]
		var status uint32
		var answer []byte
		switch command {
		case cmdRead:
			if _, err := c.disk.ReadAt(data, off); err != nil {
				status = errIO
			} else {
				answer = data
			}
		case cmdWrite:
			if _, err := io.ReadFull(c.r, data); err != nil {
				return err
			}
			if _, err := c.disk.WriteAt(data, off); err != nil {
				status = errIO
			}
		case cmdFlush:
			if c.disk.Flush() != nil {
				status = errIO
			}
		default:
			status = errInvalid
		}
		if err := c.put(uint32(replyMagic), status, cookie, answer); err != nil {
			return err
		}
		if c.r.Buffered() < len(head) {
			if err := c.w.Flush(); err != nil {
				return err
			}
		}
	}
}
