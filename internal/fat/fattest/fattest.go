// Package fattest makes FAT32 volumes for tests and looks at them with dosfstools
// and mtools, which know nothing of package fat.
package fattest

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// Image is a volume in a file.
type Image struct {
	Path string
	tree *toolstree.Tree
}

// New makes a volume as the build makes it, with files by their paths. It is small, so that
// clusters are soon used again.
func New(t testing.TB, files map[string][]byte) *Image {
	t.Helper()
	m := &Image{Path: filepath.Join(t.TempDir(), "esp"), tree: toolstreetest.Open(t)}
	if err := os.WriteFile(m.Path, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	toolstreetest.Output(t, m.tree, "mkfs.vfat", "--invariant", "-F", "32", m.Path)
	toolstreetest.Output(t, m.tree, "mmd", "-i", m.Path, "::/EFI", "::/EFI/BOOT", "::/EFI/eos")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Put(t, name, files[name])
	}
	return m
}

// Put writes a file.
func (m *Image) Put(t testing.TB, name string, content []byte) {
	t.Helper()
	src := filepath.Join(t.TempDir(), "put")
	if err := os.WriteFile(src, content, 0o600); err != nil {
		t.Fatal(err)
	}
	toolstreetest.Output(t, m.tree, "mcopy", "-o", "-i", m.Path, src, "::/"+name)
}

// Get reads a file; nil if it cannot be read.
func (m *Image) Get(t testing.TB, name string) []byte {
	t.Helper()
	b, err := command.Output(t.Context(), m.tree.Command("mtype", "-i", m.Path, "::/"+name))
	if err != nil {
		return nil
	}
	return b
}

// Want checks the content of files.
func (m *Image) Want(t testing.TB, files map[string][]byte) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if got := m.Get(t, name); !bytes.Equal(got, files[name]) {
			t.Errorf("%s has %d bytes that are not the %d wanted", name, len(got), len(files[name]))
		}
	}
}

// Check runs fsck.vfat and fails for all it says but clusters that are lost, which do no
// harm, and what is spared.
func (m *Image) Check(t testing.TB, spared ...string) {
	t.Helper()
	var out bytes.Buffer
	c := m.tree.Command("fsck.vfat", "-n", m.Path)
	c.Stdout = &out
	err := command.Run(t.Context(), c)
	for line := range strings.Lines(out.String()) {
		for _, bad := range []string{"share clusters", "Bad file", "Contains a free cluster", "does not exist", "Circular", "cluster chain length", "Duplicate"} {
			if strings.Contains(line, bad) && !slices.ContainsFunc(spared, func(s string) bool { return strings.Contains(line, s) }) {
				t.Errorf("fsck.vfat (%v) says: %s", err, out.String())
				return
			}
		}
	}
}

// Bytes returns the whole volume.
func (m *Image) Bytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Set makes b the volume.
func (m *Image) Set(t testing.TB, b []byte) {
	t.Helper()
	if err := os.WriteFile(m.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Mix returns before with a random part of the sectors that differ taken from after: what
// may be on a disk that lost its power while a file system wrote in any order.
func Mix(before, after []byte, r *rand.Rand) []byte {
	out := bytes.Clone(before)
	share := r.Float64()
	for at := 0; at < len(out); at += 512 {
		if r.Float64() < share {
			copy(out[at:at+512], after[at:])
		}
	}
	return out
}

// SetTable changes an entry of the allocation tables of volume b, as a cut can.
func SetTable(b []byte, cluster, value uint32) {
	reserved, size := int(binary.LittleEndian.Uint16(b[14:])), int(binary.LittleEndian.Uint32(b[36:]))
	for i := range int(b[16]) {
		binary.LittleEndian.PutUint32(b[(reserved+i*size)*512+int(cluster)*4:], value)
	}
}

// First returns the first cluster of the file that has a short name, as it is in the folder.
func First(t testing.TB, b []byte, short string) uint32 {
	t.Helper()
	at := bytes.Index(b, []byte(short))
	if at < 0 {
		t.Fatalf("no entry %q", short)
	}
	return uint32(binary.LittleEndian.Uint16(b[at+26:]))
}

// Device is the volume as package fat takes it.
type Device struct {
	*os.File
	// Fault is called before each write and may cut it.
	Fault func() error
	// Log is what was done, but reading.
	Log []string
}

// Device opens the volume.
func (m *Image) Device(t testing.TB) *Device {
	t.Helper()
	f, err := os.OpenFile(m.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &Device{File: f}
}

// WriteAt refuses all but whole sectors, one at a time.
func (d *Device) WriteAt(b []byte, off int64) (int, error) {
	if len(b) != 512 || off%512 != 0 {
		return 0, os.ErrInvalid
	}
	if d.Fault != nil {
		if err := d.Fault(); err != nil {
			return 0, err
		}
	}
	d.Log = append(d.Log, "write")
	return d.File.WriteAt(b, off)
}

// Sync flushes the file.
func (d *Device) Sync() error {
	d.Log = append(d.Log, "flush")
	return d.File.Sync()
}
