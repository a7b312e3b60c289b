package esp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/OSInside/eos/internal/bootstate"
	"golang.org/x/sys/unix"
)

// KernelSpace is how large the file is that holds a kernel image of so many
// bytes: half as much again, in whole MiB, because later images are larger and a
// file that keeps its size needs no change of the file system's structure.
func KernelSpace(size int64) int64 {
	const unit = 1 << 20
	return (size + size/2 + unit - 1) / unit * unit
}

// NoKernel is the content of the checksum file of a slot that has no kernel
// image: the boot loader starts none.
func NoKernel(s bootstate.Slot) []byte { return []byte(sumLine(s, make([]byte, sha256.Size))) }

// KernelSum is the content of the checksum file for a file with the given
// SHA-256.
func KernelSum(s bootstate.Slot, sum []byte) []byte { return []byte(sumLine(s, sum)) }

// InstallKernel writes the kernel image of slot s into its file, with zeros up
// to the file's end, reads it back and then makes its checksum file valid. An
// image that is already there, whole and with the right checksum, is left alone,
// so installing twice writes nothing.
//
// The file keeps its size. Only an image that does not fit makes it larger.
func (v *Volume) InstallKernel(ctx context.Context, s bootstate.Slot, image io.ReaderAt, size int64) error {
	if size <= 0 {
		return fmt.Errorf("install kernel image of slot %s: it is empty", s)
	}
	have, err := v.kernelSize(s)
	if err != nil {
		return fmt.Errorf("look at kernel image of slot %s: %w", s, err)
	}
	total := have
	if size > have {
		total = KernelSpace(size)
	}
	want, err := hashPadded(ctx, image, size, total)
	if err != nil {
		return fmt.Errorf("read new kernel image of slot %s: %w", s, err)
	}
	if v.holds(s, want, total) {
		return nil
	}
	if err := v.install(ctx, s, image, size, have, total, want); err != nil {
		return fmt.Errorf("install kernel image of slot %s on %s: %w", s, v.name, err)
	}
	return nil
}

// SameKernel reads the kernel image of slot s back and compares it with its
// checksum file and with image.
func (v *Volume) SameKernel(ctx context.Context, s bootstate.Slot, image io.ReaderAt, size int64) error {
	if err := v.CheckKernel(s); err != nil {
		return err
	}
	total, err := v.kernelSize(s)
	if err != nil {
		return fmt.Errorf("look at kernel image of slot %s: %w", s, err)
	}
	want, err := hashPadded(ctx, image, size, max(size, total))
	if err != nil {
		return fmt.Errorf("read kernel image inside slot %s: %w", s, err)
	}
	sum, err := v.readSum(s)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, want) {
		return &KernelError{s, fmt.Sprintf("it is not the one inside the slot (sha256 %x, want %x)", sum[:8], want[:8])}
	}
	return nil
}

// kernelSize is the size of a slot's file, 0 if there is none.
func (v *Volume) kernelSize(s bootstate.Slot) (int64, error) {
	st, err := os.Stat(v.Path(kernelName(s)))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// holds tells whether the slot's file and checksum are already the wanted ones.
func (v *Volume) holds(s bootstate.Slot, want []byte, size int64) bool {
	sum, err := v.readSum(s)
	if err != nil || !bytes.Equal(sum, want) {
		return false
	}
	got, n, err := v.hashKernel(s)
	return err == nil && n == size && bytes.Equal(got, want)
}

func (v *Volume) install(ctx context.Context, s bootstate.Slot, image io.ReaderAt, size, have, total int64, want []byte) error {
	if err := os.MkdirAll(v.Path(folder), 0o700); err != nil {
		return err
	}
	if err := v.room(total, have); err != nil {
		return err
	}
	// From here on the boot loader must not start what is there.
	if err := overwrite(v.Path(sumName(s)), NoKernel(s)); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	if have > 0 && total > have {
		// If power went when this was done before, the file may have clusters that are free.
		if err := v.unmounted(func(e entries) error { return e.mend(kernelName(s)) }); err != nil {
			return err
		}
	}
	if err := writeFile(ctx, v.Path(kernelName(s)), image, size, total); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	got, n, err := v.hashKernel(s)
	if err != nil {
		return err
	}
	if n != total || !bytes.Equal(got, want) {
		return fmt.Errorf("read back: %d bytes with sha256 %x, wrote %d with %x", n, got[:8], total, want[:8])
	}
	if err := overwrite(v.Path(sumName(s)), KernelSum(s, want)); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	return v.CheckKernel(s)
}

// room refuses what does not fit, before the file is touched that it goes over,
// which has so many bytes already.
func (v *Volume) room(size, have int64) error {
	if size <= have {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(v.dir, &fs); err != nil {
		return fmt.Errorf("look for free space: %w", err)
	}
	free := int64(fs.Bfree) * fs.Bsize
	// One cluster each for the two files' tails and a new folder entry.
	if need := size - have + 3*fs.Bsize; need > free {
		return fmt.Errorf("%w: it needs %d bytes more, %d are free", unix.ENOSPC, need, free)
	}
	return nil
}

// writeFile makes a file hold an image of size bytes and then zeros, total bytes
// in all. The blocks that hold the right bytes are left alone: flash wears by
// writing.
func writeFile(ctx context.Context, path string, image io.ReaderAt, size, total int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != total {
		// The file system's structure first, and durable: then the content only
		// fills clusters that are the file's already.
		if err := errors.Join(f.Truncate(total), f.Sync()); err != nil {
			return err
		}
	}
	src := padded(ctx, image, size, total)
	data, old := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for at := int64(0); at < total; {
		b := data[:min(copyBuffer, total-at)]
		if _, err := io.ReadFull(src, b); err != nil {
			return err
		}
		if n, err := f.ReadAt(old[:len(b)], at); err != nil || n < len(b) || !bytes.Equal(b, old[:len(b)]) {
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
		}
		at += int64(len(b))
	}
	return f.Sync()
}

// overwrite writes a small file in place without shortening it first, so a file
// that is already there keeps its one cluster and no file system structure
// changes.
func overwrite(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(len(content)) {
		if err := f.Truncate(int64(len(content))); err != nil {
			return err
		}
	}
	return f.Sync()
}

// padded reads an image of size bytes and then zeros, total bytes in all.
func padded(ctx context.Context, image io.ReaderAt, size, total int64) io.Reader {
	return io.MultiReader(&contextReader{ctx, io.NewSectionReader(image, 0, size)}, io.LimitReader(zeros{}, total-size))
}

// hashPadded returns the SHA-256 of what [padded] reads.
func hashPadded(ctx context.Context, image io.ReaderAt, size, total int64) ([]byte, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, padded(ctx, image, size, total), make([]byte, copyBuffer))
	if err == nil && n != total {
		err = io.ErrUnexpectedEOF
	}
	return h.Sum(nil), err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// contextReader ends a copy when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
