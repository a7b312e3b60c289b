package vmtest

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/OSInside/eos/internal/vm"
)

// A guest that greets and then falls silent must not hold up a test.
func TestDialIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("SSH-2.0-silent\r\n"))
		}
	}()
	v := &VM{Machine: &vm.Machine{Info: vm.Info{SSHPort: l.Addr().(*net.TCPAddr).Port}}}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := v.dial(ctx, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("dial of a silent server succeeded")
		}
	case <-time.After(20 * time.Second):
		t.Error("dial of a silent server does not end with its context")
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("dial ended before its context")
	}
}
