package cutdisk_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm/cutdisk"
)

// TestQEMU lets QEMU's own client speak to the server.
func TestQEMU(t *testing.T) {
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, nil, 64<<20)
	socket := filepath.Join(t.TempDir(), "disk.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := cutdisk.Serve(l, d)
	defer s.Close()
	url := "nbd+unix:///?socket=" + socket
	io := func(commands ...string) string {
		t.Helper()
		argv := []string{"qemu-io", "-t", "writeback", "-f", "raw"}
		for _, c := range commands {
			argv = append(argv, "-c", c)
		}
		out, err := command.Output(t.Context(), tree.Command(append(argv, url)...))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), "failed") || strings.Contains(string(out), "error") {
			t.Fatalf("qemu-io %q printed %s", commands, out)
		}
		return string(out)
	}
	io("write -P 1 0 1M", "write -P 2 1536 512", "read -P 1 0 1536", "read -P 2 1536 512", "write -P 3 33M 31M", "flush", "read -P 3 63M 1M")
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		off  int64
		want byte
	}{{0, 1}, {1535, 1}, {1536, 2}, {2048, 1}, {1 << 20, 0}, {33 << 20, 3}, {64<<20 - 1, 3}} {
		if got := read(t, d, tt.off, 1)[0]; got != tt.want {
			t.Errorf("byte at %d = %d, want %d", tt.off, got, tt.want)
		}
	}
	out, err := command.Output(t.Context(), tree.Command("qemu-img", "info", url))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint(d.Size()); !strings.Contains(string(out), want) {
		t.Errorf("qemu-img info printed %s, want %s in it", out, want)
	}
}

// TestAbandoned sends what a client that is killed leaves behind.
func TestAbandoned(t *testing.T) {
	d := newDisk(t, nil, 1<<20)
	for _, tt := range []struct {
		sent string
		bad  bool
	}{
		{"", false},
		{"\x00\x00", false},
		{"\x00\x00\x00\x03IHAVEOPT\x00\x00", false},
		{"\x00\x00\x00\x03NOTMAGIC\x00\x00\x00\x07\x00\x00\x00\x00", true},
		{"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff", true},
		{"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00" + strings.Repeat("x", 28), true},
	} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		s := cutdisk.Serve(l, d)
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		hello := make([]byte, 18)
		if _, err := conn.Read(hello); err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(tt.sent))
		conn.(*net.UnixConn).CloseWrite()
		if err := s.Wait(); (err != nil) != tt.bad {
			t.Errorf("after %q the server says %v, want an error: %v", tt.sent, err, tt.bad)
		}
		conn.Close()
		s.Close()
	}
}
