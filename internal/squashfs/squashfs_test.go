package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/squashfs"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// superblock returns a good one, of a filesystem of 5000 bytes.
func superblock() []byte {
	le := binary.LittleEndian
	b := make([]byte, squashfs.SuperSize)
	copy(b, "hsqs")
	le.PutUint32(b[4:], 7)
	le.PutUint32(b[8:], 1_700_000_000)
	le.PutUint32(b[12:], 128<<10)
	le.PutUint32(b[16:], 2)
	le.PutUint16(b[20:], 6)
	le.PutUint16(b[22:], 17)
	le.PutUint16(b[28:], 4)
	le.PutUint64(b[40:], 5000)
	for i := range 6 {
		le.PutUint64(b[48+8*i:], uint64(4000+i))
	}
	return b
}

func TestRead(t *testing.T) {
	got, err := squashfs.Read(bytes.NewReader(superblock()))
	if err != nil {
		t.Fatal(err)
	}
	want := &squashfs.Super{
		Inodes: 7, ModTime: 1_700_000_000, BlockSize: 128 << 10, Fragments: 2,
		Compressor: squashfs.Zstd, Level: 15, BytesUsed: 5000,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read differs (-want +got):\n%s", diff)
	}
}

func TestReadRefuses(t *testing.T) {
	le := binary.LittleEndian
	for _, tt := range []struct {
		name string
		edit func(b []byte) []byte
		want error
	}{
		{"nothing", func(b []byte) []byte { return nil }, squashfs.ErrNone},
		{"a byte short", func(b []byte) []byte { return b[:95] }, squashfs.ErrNone},
		{"no magic", func(b []byte) []byte { b[0] = 0; return b }, squashfs.ErrNone},
		{"big endian", func(b []byte) []byte { copy(b, "sqsh"); return b }, squashfs.ErrNone},
		{"version 3.1", func(b []byte) []byte { b[28], b[30] = 3, 1; return b }, squashfs.ErrVersion},
		{"version 4.1", func(b []byte) []byte { b[30] = 1; return b }, squashfs.ErrVersion},
		{"block size 2 KiB", func(b []byte) []byte { le.PutUint32(b[12:], 2048); b[22] = 11; return b }, squashfs.ErrInvalid},
		{"block size 2 MiB", func(b []byte) []byte { le.PutUint32(b[12:], 2<<20); b[22] = 21; return b }, squashfs.ErrInvalid},
		{"block size odd", func(b []byte) []byte { b[12]++; return b }, squashfs.ErrInvalid},
		{"logarithm", func(b []byte) []byte { b[22]++; return b }, squashfs.ErrInvalid},
		{"logarithm huge", func(b []byte) []byte { b[22], b[23] = 0xff, 0xff; return b }, squashfs.ErrInvalid},
		{"compressor 0", func(b []byte) []byte { b[20] = 0; return b }, squashfs.ErrInvalid},
		{"compressor 7", func(b []byte) []byte { b[20] = 7; return b }, squashfs.ErrInvalid},
		{"length 95", func(b []byte) []byte { le.PutUint64(b[40:], 95); return b }, squashfs.ErrInvalid},
		{"length huge", func(b []byte) []byte { le.PutUint64(b[40:], squashfs.MaxSize+1); return b }, squashfs.ErrInvalid},
		{"length negative", func(b []byte) []byte { le.PutUint64(b[40:], 1<<63); return b }, squashfs.ErrInvalid},
		{"table at the end", func(b []byte) []byte { le.PutUint64(b[64:], 5000); return b }, squashfs.ErrInvalid},
		{"table in superblock", func(b []byte) []byte { le.PutUint64(b[72:], 95); return b }, squashfs.ErrInvalid},
		{"options missing", func(b []byte) []byte { b[25] = 4; return b }, squashfs.ErrInvalid},
		{"options compressed", func(b []byte) []byte { b[25] = 4; return append(b, 4, 0, 19, 0, 0, 0) }, squashfs.ErrInvalid},
		{"level 0", func(b []byte) []byte { b[25] = 4; return append(b, 4, 0x80, 0, 0, 0, 0) }, squashfs.ErrInvalid},
		{"level 23", func(b []byte) []byte { b[25] = 4; return append(b, 4, 0x80, 23, 0, 0, 0) }, squashfs.ErrInvalid},
	} {
		if _, err := squashfs.Read(bytes.NewReader(tt.edit(superblock()))); !errors.Is(err, tt.want) {
			t.Errorf("%s: Read = %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := squashfs.Read(failingReader{}); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("Read of a bad disk = %v, want %v", err, iotest.ErrTimeout)
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, iotest.ErrTimeout }

// TestAgainstMksquashfs reads what mksquashfs made and compares it with what
// unsquashfs says about it.
func TestAgainstMksquashfs(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		text := bytes.Repeat([]byte(fmt.Sprintln("line of file", i)), 20_000*i+1)
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		compressor squashfs.Compressor
		blockSize  int
		level      int
		options    []string
	}{
		{squashfs.Zstd, 128 << 10, 15, nil},
		{squashfs.Zstd, 128 << 10, 19, []string{"-Xcompression-level", "19"}},
		{squashfs.Zstd, 1 << 20, 3, []string{"-Xcompression-level", "3"}},
		{squashfs.XZ, 4 << 10, 0, nil},
		{squashfs.Gzip, 64 << 10, 0, []string{"-Xcompression-level", "3"}},
		{squashfs.LZ4, 128 << 10, 0, nil},
		{squashfs.LZO, 128 << 10, 0, nil},
	} {
		image := filepath.Join(dir, "image")
		os.Remove(image)
		toolstreetest.Output(t, tree, slices.Concat([]string{
			"mksquashfs", source, image, "-quiet", "-no-progress", "-mkfs-time", "1700000000",
			"-comp", string(tt.compressor), "-b", fmt.Sprint(tt.blockSize),
		}, tt.options)...)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		got, err := squashfs.Read(f)
		info, statErr := f.Stat()
		f.Close()
		if err != nil || statErr != nil {
			t.Fatalf("Read of mksquashfs %s = %v, %v", tt.compressor, err, statErr)
		}
		if got.Compressor != tt.compressor || got.BlockSize != tt.blockSize || got.Level != tt.level || got.ModTime != 1_700_000_000 {
			t.Errorf("Read = %+v, want %+v", got, tt)
		}
		// mksquashfs pads to 4096 bytes: the rule that the manifest is found by.
		if want := (got.BytesUsed + 4095) / 4096 * 4096; info.Size() != want {
			t.Errorf("file of %d bytes for %d used, want %d", info.Size(), got.BytesUsed, want)
		}
		says := toolstreetest.Output(t, tree, "unsquashfs", "-s", image)
		for _, line := range []string{
			fmt.Sprintf("Filesystem size %d bytes", got.BytesUsed),
			fmt.Sprintf("Compression %s\n", got.Compressor),
			fmt.Sprintf("Block size %d\n", got.BlockSize),
			fmt.Sprintf("Number of fragments %d\n", got.Fragments),
			fmt.Sprintf("Number of inodes %d\n", got.Inodes),
		} {
			if !strings.Contains(says, line) {
				t.Errorf("%s: unsquashfs -s does not say %q:\n%s", tt.compressor, line, says)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(superblock())
	f.Add(append(superblock(), 4, 0x80, 19, 0, 0, 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := squashfs.Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		if s.BytesUsed < squashfs.SuperSize || s.BytesUsed > squashfs.MaxSize || s.BlockSize < 4096 || s.Compressor == "" {
			t.Fatalf("Read(%x) = %+v", in, s)
		}
	})
}
