package origin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/slotimage"
)

// Partitions that are cut out, by the names that both systems use.
const (
	espName  = "p.UEFI"
	rootName = "p.lxreadonly"
)

// unpack makes the new files beside the copy out of what was downloaded.
func (j *job) unpack(ctx context.Context, next *State) error {
	in, err := os.Open(j.file(partFile))
	if err != nil {
		return err
	}
	defer in.Close()
	r, done, err := decompress(bufio.NewReaderSize(contextReader(ctx, in), 1<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotImage, err)
	}
	defer done()
	head := bufio.NewReaderSize(r, headSize)
	size, err := diskSize(head)
	if err != nil {
		return err
	}
	if err := j.room(2 * size); err != nil { // the disk, and at most as much again in its partitions
		return err
	}
	raw, err := os.Create(j.file("new"))
	if err != nil {
		return err
	}
	defer raw.Close()
	sum := sha256.New()
	n, err := copySparse(raw, io.TeeReader(io.LimitReader(head, size+1), sum), size)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isStorage(err):
		return err
	case err != nil:
		return fmt.Errorf("%w: decompress: %w", ErrNotImage, err)
	case n < size:
		return fmt.Errorf("%w: it ends after %d of %d bytes", ErrNotImage, n, size)
	}
	if n > size {
		return fmt.Errorf("%w: more than the %d bytes of its disk", ErrNotImage, size)
	}
	next.Size, next.SHA256 = size, hex.EncodeToString(sum.Sum(nil))
	if err := j.cut(ctx, raw, next); err != nil {
		return err
	}
	if err := os.WriteFile(j.file("new.sha"), []byte(next.SHA256+"  "+j.src().Name+"\n"), 0o644); err != nil {
		return err
	}
	for _, suffix := range suffixes {
		if err := syncFile(j.file("new" + suffix)); err != nil {
			return err
		}
	}
	return nil
}

// isFull says whether err is that the disk takes no more.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// isStorage says whether err is about our disk and not about what came.
func isStorage(err error) bool {
	var p *os.PathError
	return errors.As(err, &p)
}

// decompress finds out by its first bytes how r is compressed. It does not go by the name, which
// says nothing of what a server sends.
func decompress(r *bufio.Reader) (io.Reader, func(), error) {
	magic, err := r.Peek(6)
	switch {
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		x, err := xz.ReaderConfig{DictCap: 64 << 20}.NewReader(r)
		return x, func() {}, err
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%d bytes: %w", len(magic), unexpected(err))
	}
	return r, func() {}, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

const (
	sectorSize = 512
	headSize   = 2 * sectorSize
	maxDisk    = 1 << 40
)

// diskSize reads from the GPT header at the beginning how large the disk is: it names the place of
// its copy, which is the last sector (UEFI 2.10, 5.3.2). What has none is no disk.
func diskSize(r *bufio.Reader) (int64, error) {
	head, err := r.Peek(headSize)
	if err != nil {
		return 0, fmt.Errorf("%w: it ends after %d bytes: %w", ErrNotImage, len(head), unexpected(err))
	}
	if !bytes.HasPrefix(head[sectorSize:], []byte("EFI PART")) {
		return 0, fmt.Errorf("%w: there is no GPT in it", ErrNotImage)
	}
	last := binary.LittleEndian.Uint64(head[sectorSize+32:])
	if last < 3 || last >= maxDisk/sectorSize {
		return 0, fmt.Errorf("%w: its GPT is for a disk of %d sectors", ErrNotImage, last)
	}
	return int64(last+1) * sectorSize, nil
}

// cut makes files of the partitions.
func (j *job) cut(ctx context.Context, raw *os.File, next *State) error {
	table, err := gpt.Read(raw, next.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotImage, err)
	}
	if table.Backup {
		return fmt.Errorf("%w: only the copy of its GPT can be read", ErrNotImage)
	}
	for _, p := range []struct{ name, suffix string }{{espName, ".firmware"}, {rootName, ".dev"}} {
		part, err := table.ByName(p.name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotImage, err)
		}
		section := io.NewSectionReader(raw, part.Start, part.Size)
		if p.name == rootName {
			next.Version = versionOf(section)
		}
		f, err := os.Create(j.file("new" + p.suffix))
		if err != nil {
			return err
		}
		_, err = copySparse(f, contextReader(ctx, section), part.Size)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("cut out %s: %w", p.name, err)
		}
	}
	return nil
}

// versionOf reads the version from the slot manifest of a root partition, if it has one. Nobody
// trusts it: devices verify the manifest themselves.
func versionOf(r io.ReaderAt) string {
	at, err := slotimage.Locate(r)
	if err != nil {
		return ""
	}
	b := make([]byte, slotimage.BlockSize)
	if _, err := r.ReadAt(b, at); err != nil {
		return ""
	}
	block, err := slotimage.ParseBlock(b)
	if err != nil {
		return ""
	}
	return block.Unverified().Version
}

// copySparse writes r to f, with holes where there is nothing but zeros, and makes f size bytes
// long. It returns how many bytes r had; they may be more.
func copySparse(f *os.File, r io.Reader, size int64) (int64, error) {
	b, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	var at int64
	for {
		n, err := io.ReadFull(r, b)
		if n > 0 && !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := f.WriteAt(b[:n], at); err != nil {
				return at, err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF && n < len(b) {
			break
		}
		if err != nil {
			return at, err
		}
	}
	return at, f.Truncate(size)
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
}
