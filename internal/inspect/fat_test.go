package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// smallFAT returns a FAT16 filesystem of the fewest clusters there may be (512
// bytes each) with DIR/FILE.TXT of 1300 bytes in three clusters that are not in
// order.
func smallFAT() []byte {
	const clusters, tableLen = 4085, 16
	b := make([]byte, (1+tableLen+1+clusters)*512)
	le := binary.LittleEndian
	le.PutUint16(b[11:], 512)
	b[13], b[16] = 1, 1      // sectors in a cluster, tables
	le.PutUint16(b[14:], 1)  // reserved sectors
	le.PutUint16(b[17:], 16) // root entries
	le.PutUint16(b[19:], uint16(len(b)/512))
	le.PutUint16(b[22:], tableLen)
	b[510], b[511] = 0x55, 0xaa
	for c, next := range map[int]uint16{2: 0xffff, 3: 7, 7: 5, 5: 0xfff8} {
		le.PutUint16(b[512+2*c:], next)
	}
	entry := func(at int, name string, attributes byte, cluster uint16, size uint32) {
		copy(b[at:], name)
		b[at+11] = attributes
		le.PutUint16(b[at+26:], cluster)
		le.PutUint32(b[at+28:], size)
	}
	entry(17*512, "DIR        ", 0x10, 2, 0)
	entry(18*512, "FILE    TXT", 0x20, 3, 1300)
	for i, c := range []int{3, 7, 5} {
		copy(b[(18+c-2)*512:], bytes.Repeat([]byte{byte('a' + i)}, 512))
	}
	return b
}

func readPath(b []byte, path string) ([]byte, error) {
	v, err := openVolume(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return readFile(v, path, 1<<20)
}

func TestFATChain(t *testing.T) {
	want := strings.Repeat("a", 512) + strings.Repeat("b", 512) + strings.Repeat("c", 276)
	got, err := readPath(smallFAT(), "dir/file.txt")
	if err != nil || string(got) != want {
		t.Errorf("read dir/file.txt = %q, %v, want %q", got, err, want)
	}
	for path, want := range map[string]error{
		"none": fs.ErrNotExist, "dir/none": fs.ErrNotExist, "dir/file.txt/x": fs.ErrNotExist, "": fs.ErrNotExist,
	} {
		if _, err := readPath(smallFAT(), path); !errors.Is(err, want) {
			t.Errorf("read %q = %v, want %v", path, err, want)
		}
	}
	if _, err := readPath(smallFAT(), "dir"); err == nil {
		t.Error("read of a directory = nil, want an error")
	}
}

func TestFATDamage(t *testing.T) {
	le := binary.LittleEndian
	for name, edit := range map[string]func(b []byte){
		"no signature":         func(b []byte) { b[510] = 0 },
		"sector of 100":        func(b []byte) { le.PutUint16(b[11:], 100) },
		"sector of 256":        func(b []byte) { le.PutUint16(b[11:], 256) },
		"cluster of 3":         func(b []byte) { b[13] = 3 },
		"cluster of 0":         func(b []byte) { b[13] = 0 },
		"no reserved sector":   func(b []byte) { b[14] = 0 },
		"no table":             func(b []byte) { b[16] = 0 },
		"longer than the disk": func(b []byte) { le.PutUint16(b[19:], uint16(len(b)/512)+1) },
		"FAT12":                func(b []byte) { le.PutUint16(b[19:], uint16(len(b)/512)-1) },
		"table too short":      func(b []byte) { le.PutUint16(b[22:], 15); le.PutUint16(b[14:], 2) },
		"chain is a circle":    func(b []byte) { le.PutUint16(b[512+2*5:], 3); le.PutUint32(b[18*512+28:], 1<<31) },
		"directory is a circle": func(b []byte) {
			le.PutUint16(b[512+2*2:], 2)
			copy(b[18*512:], bytes.Repeat([]byte{0xe5}, 512))
		},
		"chain too short":     func(b []byte) { le.PutUint16(b[512+2*7:], 0xffff) },
		"chain leads to 0":    func(b []byte) { le.PutUint16(b[512+2*7:], 0) },
		"chain leads past":    func(b []byte) { le.PutUint16(b[512+2*7:], 4087) },
		"file begins at 1":    func(b []byte) { b[18*512+26] = 1 },
		"directory begins at": func(b []byte) { b[17*512+26] = 0 },
	} {
		b := smallFAT()
		edit(b)
		v, err := openVolume(bytes.NewReader(b), int64(len(b)))
		var f *fatFile
		if err == nil {
			f, err = v.open("dir/file.txt")
		}
		if err == nil {
			_, err = io.Copy(io.Discard, f)
		}
		if !errors.Is(err, errFAT) {
			t.Errorf("%s: read = %v, want errFAT", name, err)
		}
	}
	// The end of the disk in the middle of a file is no end of the file.
	b := smallFAT()
	v, err := openVolume(bytes.NewReader(b[:19*512+100]), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(v, "dir/file.txt", 1<<20); err == nil || errors.Is(err, errFAT) {
		t.Errorf("read of a disk that is cut = %v, want the read error", err)
	}
}

// TestAgainstMtools reads what mkfs.vfat and mtools wrote.
func TestAgainstMtools(t *testing.T) {
	tree := toolstreetest.Open(t)
	for _, tt := range []struct {
		bits, cluster string
		size          int64
	}{{"32", "1", 40 << 20}, {"32", "8", 300 << 20}, {"16", "4", 32 << 20}} {
		dir := t.TempDir()
		image := filepath.Join(dir, "image")
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(tt.size); err != nil {
			t.Fatal(err)
		}
		toolstreetest.Output(t, tree, "mkfs.vfat", "-F", tt.bits, "-s", tt.cluster, image)
		toolstreetest.Output(t, tree, "mmd", "-i", image, "::EFI", "::EFI/a directory with a long name", "::EFI/eos")
		want := map[string][]byte{}
		copyIn := func(path string, content []byte) {
			local := filepath.Join(dir, "content")
			if err := os.WriteFile(local, content, 0o600); err != nil {
				t.Fatal(err)
			}
			toolstreetest.Output(t, tree, "mcopy", "-o", "-i", image, local, "::"+path)
			want[path] = content
		}
		for i, size := range []int{0, 1, 511, 512, 513, 70_000, 3_000_000} {
			content := bytes.Repeat(fmt.Appendf(nil, "%d ", i), size/2+1)[:size]
			copyIn(fmt.Sprintf("EFI/eos/file-%d", i), content)
			copyIn(fmt.Sprintf("EFI/a directory with a long name/the long name of a file, number %d.extra.d", i), content)
		}
		// Holes that the next file falls into.
		toolstreetest.Output(t, tree, "mdel", "-i", image, "::EFI/eos/file-3", "::EFI/eos/file-5")
		delete(want, "EFI/eos/file-3")
		delete(want, "EFI/eos/file-5")
		copyIn("EFI/eos/a.efi", slices.Repeat([]byte("fragments"), 50_000))
		copyIn("EFI/eos/Größe.txt", []byte("not ASCII"))
		for path, content := range want {
			for _, path := range []string{path, strings.ToUpper(path)} {
				v, err := openVolume(f, tt.size)
				if err != nil {
					t.Fatal(err)
				}
				got, err := readFile(v, path, 4<<20)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("FAT%s: read %q = %d bytes, %v, want %d", tt.bits, path, len(got), err, len(content))
				}
			}
		}
		v, err := openVolume(f, tt.size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.open("EFI/eos/file-5"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("FAT%s: open of a deleted file = %v, want ErrNotExist", tt.bits, err)
		}
	}
}

// FuzzFAT changes a good filesystem in two places: it may be wrong but must
// end, and no file is longer than it says.
func FuzzFAT(f *testing.F) {
	f.Add(uint32(0), []byte{0xeb}, uint32(512), []byte{1, 2, 3})
	f.Add(uint32(11), []byte{0, 2, 1, 1, 0, 2, 0, 0, 0, 0}, uint32(18*512), []byte("FILE    TXT"))
	f.Add(uint32(22), []byte{0, 0}, uint32(36), []byte{16, 0, 0, 0})
	base := smallFAT()
	const meta = 30 * 512 // what is behind it is noise to the reader
	f.Fuzz(func(t *testing.T, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte) {
		b := base
		head := slices.Clone(b[:meta])
		copy(head[at1%meta:], patch1)
		copy(head[at2%meta:], patch2)
		v, err := openVolume(patched{head, bytes.NewReader(b)}, int64(len(b)))
		if err != nil {
			return
		}
		file, err := v.open("dir/file.txt")
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, file)
		if n > file.size || err == nil && n != file.size || n > int64(len(b)) {
			t.Fatalf("read %d bytes of a file of %d: %v", n, file.size, err)
		}
	})
}

// patched has other bytes at its start.
type patched struct {
	head []byte
	rest io.ReaderAt
}

func (p patched) ReadAt(b []byte, at int64) (int, error) {
	n, err := p.rest.ReadAt(b, at)
	if at < int64(len(p.head)) {
		copy(b[:n], p.head[at:])
	}
	return n, err
}
