package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/vm/cutdisk"
)

// serveNew serves a new disk over base.
func (v *VM) serveNew(t testing.TB, name string, base io.ReaderAt, size int64) *served {
	t.Helper()
	d, err := cutdisk.New(base, size, v.Folder)
	if err != nil {
		t.Fatal(err)
	}
	// The folder of the process has a short path; a socket's address holds no long one.
	socket := filepath.Join(v.Folder, name+".nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return &served{d, cutdisk.Serve(l, d), socket}
}

func (v *VM) disks() []*served {
	var all []*served
	for _, d := range []*served{v.disk, v.registry} {
		if d != nil {
			all = append(all, d)
		}
	}
	return all
}

// Disk returns the disk. Change it only while the machine is off.
func (v *VM) Disk() *cutdisk.Disk { return v.disk.Disk }

// Registry returns the second disk.
func (v *VM) Registry() *cutdisk.Disk { return v.registry.Disk }

// Partition is a part of the disk, by its GPT name.
type Partition struct {
	gpt.Partition
	disk *cutdisk.Disk
}

// Partition returns the partition of the disk with that name.
func (v *VM) Partition(t testing.TB, name string) Partition {
	t.Helper()
	table, err := gpt.Read(v.disk, v.disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return Partition{p, v.disk.Disk}
}

// ReadAt reads from the partition.
func (p Partition) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.disk, p.Start, p.Size).ReadAt(b, off)
}

// WriteAt writes to the partition, durably.
func (p Partition) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > p.Size {
		return 0, fmt.Errorf("write to %s at %d: past its end", p.Name, off)
	}
	n, err := p.disk.WriteAt(b, p.Start+off)
	return n, errors.Join(err, p.disk.Flush())
}

// FlipBit inverts one bit of a partition while the machine is off.
func (v *VM) FlipBit(t testing.TB, partition string, off int64, bit uint) {
	t.Helper()
	v.needOff(t)
	p := v.Partition(t, partition)
	b := make([]byte, 1)
	if _, err := p.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (bit % 8)
	if _, err := p.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// EditPartition gives edit a file with the content of a partition, for tools like mtools, and
// writes back what edit has changed in it. The machine must be off.
func (v *VM) EditPartition(t testing.TB, partition string, edit func(path string)) {
	t.Helper()
	v.needOff(t)
	p := v.Partition(t, partition)
	path := filepath.Join(v.Folder, "edit.img")
	defer os.Remove(path)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const step = 1 << 20
	old, now := make([]byte, step), make([]byte, step)
	each := func(do func(old []byte, off int64) error) {
		t.Helper()
		for off := int64(0); off < p.Size; off += step {
			b := old[:min(step, p.Size-off)]
			if _, err := p.ReadAt(b, off); err != nil {
				t.Fatal(err)
			}
			if err := do(b, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	zeros := make([]byte, step)
	each(func(b []byte, off int64) error {
		if bytes.Equal(b, zeros[:len(b)]) {
			return nil
		}
		_, err := f.WriteAt(b, off)
		return err
	})
	if err := f.Truncate(p.Size); err != nil {
		t.Fatal(err)
	}
	edit(path)
	// Opened again: edit may have put another file in its place.
	g, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	each(func(b []byte, off int64) error {
		n := now[:len(b)]
		if _, err := g.ReadAt(n, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.Equal(b, n) {
			return nil
		}
		_, err := p.WriteAt(n, off)
		return err
	})
}

func (v *VM) needOff(t testing.TB) {
	t.Helper()
	if v.Running() {
		t.Fatal("change the disk: the machine is running")
	}
}
