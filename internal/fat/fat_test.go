package fat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/fat"
	"github.com/OSInside/eos/internal/fat/fattest"
)

const (
	live  = "EFI/BOOT/BOOTX64.EFI"
	fresh = "EFI/BOOT/BOOTX64.NEW"
	old   = "EFI/BOOT/BOOTX64.OLD"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*11) ^ seed ^ byte(i>>8)
	}
	return b
}

// content is what a device has, with a file that lies in several pieces.
func content() map[string][]byte {
	return map[string][]byte{
		live: pattern(90_000, 1), fresh: pattern(101_000, 2),
		"EFI/eos/a.efi": pattern(200_000, 3), "EFI/eos/bootstate": pattern(1024, 4), "EFI/eos/a.sum": pattern(80, 5),
		"EFI/eos/a long name of a file.txt": pattern(700, 6), "EMPTY": {},
	}
}

// hasShort says whether package fat finds a file under its name.
func hasShort(name string) bool {
	_, err := fat.Short(path.Base(name))
	return err == nil
}

func open(t *testing.T, m *fattest.Image) *fat.Volume {
	t.Helper()
	v, err := fat.Open(m.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wantSum(t *testing.T, v *fat.Volume, name string, b []byte) {
	t.Helper()
	sum := sha256.Sum256(b)
	if got, err := v.Sum(context.Background(), name); err != nil || !bytes.Equal(got, sum[:]) {
		t.Errorf("Sum(%s) = %x, %v, want %x", name, got, err, sum)
	}
}

func TestRead(t *testing.T) {
	files := content()
	m := fattest.New(t, files)
	// In the holes of what is removed, a file in pieces.
	m.Put(t, "EFI/eos/a.sum", nil)
	m.Put(t, "EFI/BOOT/BOOTX64.EFI", nil)
	files["EFI/eos/a.sum"], files[live] = nil, pattern(150_001, 9)
	m.Put(t, live, files[live])
	v := open(t, m)
	if d := v.Damage(); len(d) > 0 {
		t.Errorf("Damage() of a new volume = %v, want none", d)
	}
	for name, b := range files {
		if !hasShort(name) {
			continue
		}
		wantSum(t, v, strings.ToLower(name), b)
		if e, ok := v.Find(name); !ok || e.Size != int64(len(b)) || e.Dir {
			t.Errorf("Find(%s) = %+v, %v, want %d bytes", name, e, ok, len(b))
		}
	}
	if e, ok := v.Find("EFI/BOOT"); !ok || !e.Dir {
		t.Errorf("Find(EFI/BOOT) = %+v, %v, want a folder", e, ok)
	}
	if _, err := v.Sum(context.Background(), "EFI/NONE"); err == nil {
		t.Error("Sum of a file that is not there = nil error")
	}
}

// Every change is one write, which is there or not; the files are whole in both cases.
func TestChange(t *testing.T) {
	files := content()
	with := func(changes map[string][]byte) map[string][]byte {
		all := maps.Clone(files)
		maps.Copy(all, changes)
		return all
	}
	for _, c := range []struct {
		name   string
		change func(v *fat.Volume) error
		after  map[string][]byte
		lost   bool
	}{
		{"switch", func(v *fat.Volume) error { return v.Switch(live, fresh, old) },
			map[string][]byte{live: files[fresh], old: files[live], fresh: nil}, false},
		{"first", func(v *fat.Volume) error { return v.Switch("EFI/BOOT/BOOTIA32.EFI", fresh, old) },
			map[string][]byte{"EFI/BOOT/BOOTIA32.EFI": files[fresh], fresh: nil, old: nil}, false},
		{"rename", func(v *fat.Volume) error { return v.Rename(fresh, old) },
			map[string][]byte{old: files[fresh], fresh: nil}, false},
		{"detach", func(v *fat.Volume) error { return v.Detach(fresh) },
			map[string][]byte{fresh: nil}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := fattest.New(t, files)
			d := m.Device(t)
			v, err := fat.Open(d)
			if err != nil {
				t.Fatal(err)
			}
			power := errors.New("power is off")
			d.Fault = func() error { return power }
			if err := c.change(v); !errors.Is(err, power) {
				t.Fatalf("change without power = %v, want %v", err, power)
			}
			m.Want(t, files)
			d.Fault, d.Log = nil, nil
			if err := c.change(v); err != nil {
				t.Fatal(err)
			}
			if want := []string{"flush", "write", "flush"}; !slices.Equal(d.Log, want) {
				t.Errorf("it did %q, want %q", d.Log, want)
			}
			m.Want(t, with(c.after))
			m.Check(t)
			for name, b := range with(c.after) {
				if b != nil && hasShort(name) {
					wantSum(t, v, name, b) // the volume knows what has changed
				}
			}
		})
	}
}

func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(t *testing.T, b []byte)
		freshSpoil bool
	}{
		{"free cluster", fresh + " leads to cluster", func(t *testing.T, b []byte) { fattest.SetTable(b, fattest.First(t, b, "BOOTX64 NEW")+3, 0) }, true},
		{"free start", "which is free", func(t *testing.T, b []byte) { fattest.SetTable(b, fattest.First(t, b, "BOOTX64 NEW"), 0) }, true},
		{"past the end", "does not exist", func(t *testing.T, b []byte) { fattest.SetTable(b, fattest.First(t, b, "BOOTX64 NEW")+3, 0x0ffffff0) }, true},
		{"shared", "share clusters", func(t *testing.T, b []byte) {
			fattest.SetTable(b, fattest.First(t, b, "BOOTX64 NEW")+3, fattest.First(t, b, "A       EFI")+9)
		}, true},
		{"circle", "circle", func(t *testing.T, b []byte) { n := fattest.First(t, b, "BOOTX64 NEW"); fattest.SetTable(b, n+3, n+1) }, true},
		{"another's", "EFI/EOS/A.EFI leads to", func(t *testing.T, b []byte) { fattest.SetTable(b, fattest.First(t, b, "A       EFI")+9, 0) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := content()
			m := fattest.New(t, files)
			b := m.Bytes(t)
			c.spoil(t, b)
			m.Set(t, b)
			v := open(t, m)
			if d := v.Damage(); len(d) != 1 || !strings.Contains(d[0].String(), c.want) || d[0].Of(fresh) != c.freshSpoil {
				t.Fatalf("Damage() = %v, want one with %q", d, c.want)
			}
			if !c.freshSpoil {
				return
			}
			if _, err := v.Sum(context.Background(), fresh); err == nil && c.name != "shared" && c.name != "circle" {
				t.Error("Sum of a damaged file = nil error")
			}
			if err := v.Detach(fresh); err != nil || len(v.Damage()) > 0 {
				t.Errorf("Detach = %v, and then Damage() = %v, want none", err, v.Damage())
			}
			files[fresh] = nil
			m.Want(t, files)
			m.Check(t)
		})
	}
}

func TestRefuses(t *testing.T) {
	files := content()
	for i := range 20 {
		files["EFI/eos/F"+string(rune('A'+i))] = nil
	}
	files["EFI/BOOT/NoShortForm.EFI"] = []byte("x")
	m := fattest.New(t, files)
	before := m.Bytes(t)
	v := open(t, m)
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"no such file", "not exist", v.Rename("EFI/BOOT/NONE", "EFI/BOOT/OTHER")},
		{"name is taken", "exists", v.Rename(fresh, live)},
		{"other folder", "another folder", v.Rename(fresh, "EFI/eos/X")},
		{"no short name", "is no name", v.Rename(fresh, "EFI/BOOT/BOOTX64.NEWER")},
		{"long name", "long name", v.Rename("EFI/BOOT/NOSHOR~1.EFI", "EFI/BOOT/X.EFI")},
		{"folder", "folder", v.Detach("EFI/BOOT")},
		{"not in one sector", "same sector", v.Switch("EFI/eos/A.EFI", "EFI/eos/FA", "EFI/eos/OLD")},
		{"old is there", "exists", v.Switch(live, fresh, "EFI/BOOT/NOSHOR~1.EFI")},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, c.err, c.want)
		}
	}
	if !bytes.Equal(m.Bytes(t), before) {
		t.Error("what was refused has changed the volume")
	}
	for _, c := range []struct {
		name, want string
		spoil      func(b []byte) []byte
	}{
		{"zeros", "boot sector", func(b []byte) []byte { return make([]byte, 4096) }},
		{"short", "unexpected EOF", func(b []byte) []byte { return b[:1000] }},
		{"large sectors", "4096", func(b []byte) []byte { binary.LittleEndian.PutUint16(b[11:], 4096); return b }},
		{"FAT16", "not FAT32", func(b []byte) []byte { b[17] = 1; return b }},
		{"not mirrored", "mirrored", func(b []byte) []byte { b[40] = 0x80; return b }},
		{"huge", "clusters", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[32:], 1<<31); return b }},
		{"tiny", "clusters", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[32:], 3); return b }},
		{"cluster of 3 sectors", "damaged", func(b []byte) []byte { b[13] = 3; return b }},
	} {
		m.Set(t, c.spoil(bytes.Clone(before)))
		if _, err := fat.Open(m.Device(t)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%s) = %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestShort(t *testing.T) {
	for name, want := range map[string]string{
		"BOOTX64.EFI": "BOOTX64 EFI", "start4.elf": "START4  ELF", "A": "A          ", "a.b": "A       B  ",
		"": "", ".x": "", "ninechars.x": "", "a.long": "", "a.b.c": "", "a b": "", "eos.": "", "ü": "", "a+b": "", "..": "",
	} {
		got, err := fat.Short(name)
		if (err == nil) != (want != "") || err == nil && string(got[:]) != want {
			t.Errorf("Short(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
}

// memory is a device for the fuzzer.
type memory struct{ *bytes.Reader }

func (memory) WriteAt([]byte, int64) (int, error) { return 0, errors.New("read only") }
func (memory) Sync() error                        { return nil }

// tiny is the smallest volume: a boot sector, one table, four clusters.
func tiny() []byte {
	b := make([]byte, 6*512)
	le := binary.LittleEndian
	le.PutUint16(b[11:], 512)
	b[13], b[14], b[16], b[510], b[511] = 1, 1, 1, 0x55, 0xaa
	le.PutUint32(b[32:], 6)
	le.PutUint32(b[36:], 1)
	le.PutUint32(b[44:], 2)
	for c := range 4 {
		le.PutUint32(b[512+4*c+8:], 0x0fffffff)
	}
	folder := b[2*512:]
	copy(folder, "A       EFI")
	folder[26], folder[28] = 3, 200
	copy(folder[32:], "DIR        ")
	folder[32+11], folder[32+26] = 0x10, 4
	return b
}

// Whatever is on a disk, reading it ends, and no two files have the same cluster that are
// not reported.
func FuzzOpen(f *testing.F) {
	f.Add(tiny())
	circle := tiny()
	binary.LittleEndian.PutUint32(circle[512+12:], 3)
	f.Add(circle)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := fat.Open(memory{bytes.NewReader(b)})
		if err != nil {
			return
		}
		for _, name := range []string{"A.EFI", "DIR"} {
			if e, ok := v.Find(name); ok && !e.Dir {
				sum, err := v.Sum(context.Background(), name)
				if err == nil && len(sum) != sha256.Size {
					t.Errorf("Sum(%s) = %x", name, sum)
				}
			}
		}
	})
}

func TestTiny(t *testing.T) {
	v, err := fat.Open(memory{bytes.NewReader(tiny())})
	if err != nil || len(v.Damage()) > 0 {
		t.Fatalf("Open(tiny) = %v, %v, want a sound volume for the fuzzer to begin with", v, err)
	}
	wantSum(t, v, "a.efi", make([]byte, 200))
}
