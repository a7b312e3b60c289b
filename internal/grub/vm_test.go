package grub

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// makeESP writes a FAT32 image of size bytes to a new file and copies the content of
// dir into it.
func makeESP(t *testing.T, tree *toolstree.Tree, dir, size string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "esp.img")
	toolstreetest.Output(t, tree, "truncate", "-s", size, img)
	toolstreetest.Output(t, tree, "mkfs.vfat", "-F", "32", "-s", "1", img)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"mcopy", "-s", "-i", img}
	for _, e := range entries {
		argv = append(argv, filepath.Join(dir, e.Name()))
	}
	toolstreetest.Output(t, tree, append(argv, "::/")...)
	return img
}

// fromESP copies a file or folder out of a FAT image.
func fromESP(t *testing.T, tree *toolstree.Tree, img, name string) string {
	t.Helper()
	dir := t.TempDir()
	toolstreetest.Output(t, tree, "mcopy", "-s", "-n", "-i", img, "::/"+name, dir)
	return filepath.Join(dir, filepath.Base(name))
}

// lines passes on what arrives line by line and ends the machine after the last one
// that is waited for.
type lines struct {
	buf  bytes.Buffer
	all  []string
	stop func(line string) bool
	end  context.CancelFunc
}

func (l *lines) Write(p []byte) (int, error) {
	l.buf.Write(p)
	for {
		b := l.buf.Bytes()
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := clean(string(l.buf.Next(i + 1)))
		l.all = append(l.all, line)
		if l.stop != nil && l.stop(line) {
			l.stop = nil
			l.end()
		}
	}
}

// clean drops control characters and what is left of a terminal's cursor movements.
func clean(line string) string {
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == 0x1b && i+1 < len(line) && line[i+1] == '[':
			for i += 2; i < len(line) && (line[i] < 0x40 || line[i] > 0x7e); i++ {
			}
		case c >= 0x20 && c < 0x7f:
			b.WriteByte(c)
		}
	}
	return strings.TrimSpace(b.String())
}

// run starts a virtual machine with real firmware from the image and returns what it
// wrote to the serial console, until it halts, or stop accepts a line.
func run(t *testing.T, tree *toolstree.Tree, img string, limit time.Duration, stop func(string) bool, extra ...string) []string {
	t.Helper()
	vars := filepath.Join(t.TempDir(), "vars.fd")
	b, err := os.ReadFile(tree.Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars, b, 0o600); err != nil {
		t.Fatal(err)
	}
	argv := []string{"qemu-system-x86_64",
		"-machine", "q35", "-cpu", "max", "-accel", "tcg", "-m", "256",
		"-nodefaults", "-display", "none", "-no-user-config",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"-drive", "if=pflash,format=raw,unit=1,file=" + vars,
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + img,
		"-serial", "stdio", "-monitor", "none",
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out := &lines{stop: stop, end: cancel}
	cmd := tree.Command(append(argv, extra...)...)
	cmd.Stdout = out
	wanted := stop != nil
	err = command.Run(ctx, cmd)
	stopped := wanted && out.stop == nil
	if err != nil && !stopped || wanted && !stopped {
		t.Fatalf("run machine: %v; the end of its console:\n%s", err, tail(out.all, 40))
	}
	return out.all
}

func tail(l []string, n int) string {
	if len(l) > n {
		l = l[len(l)-n:]
	}
	return strings.Join(l, "\n")
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(fmt.Errorf("write test file: %w", err))
	}
}
