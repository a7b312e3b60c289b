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

// InstallKernel writes the kernel image of slot s, reads it back and then makes
// its checksum file valid. An image that is already there, whole and with the
// right checksum, is left alone, so installing twice writes nothing.
func (v *Volume) InstallKernel(ctx context.Context, s bootstate.Slot, image io.ReaderAt, size int64) error {
	if size <= 0 {
		return fmt.Errorf("install kernel image of slot %s: it is empty", s)
	}
	want, err := hashOf(ctx, image, size)
	if err != nil {
		return fmt.Errorf("read new kernel image of slot %s: %w", s, err)
	}
	if v.holds(s, want, size) {
		return nil
	}
	if err := v.install(ctx, s, image, size, want); err != nil {
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
	want, err := hashOf(ctx, image, size)
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

// holds tells whether the slot's image and checksum are already the wanted ones.
func (v *Volume) holds(s bootstate.Slot, want []byte, size int64) bool {
	sum, err := v.readSum(s)
	if err != nil || !bytes.Equal(sum, want) {
		return false
	}
	got, n, err := v.hashKernel(s)
	return err == nil && n == size && bytes.Equal(got, want)
}

func (v *Volume) install(ctx context.Context, s bootstate.Slot, image io.ReaderAt, size int64, want []byte) error {
	if err := os.MkdirAll(v.Path(folder), 0o700); err != nil {
		return err
	}
	if err := v.room(size, kernelName(s)); err != nil {
		return err
	}
	// From here on the boot loader must not start what is there.
	if err := overwrite(v.Path(sumName(s)), []byte(sumLine(s, make([]byte, sha256.Size)))); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	if err := writeFile(ctx, v.Path(kernelName(s)), image, size); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	got, n, err := v.hashKernel(s)
	if err != nil {
		return err
	}
	if n != size || !bytes.Equal(got, want) {
		return fmt.Errorf("read back: %d bytes with sha256 %x, wrote %d with %x", n, got[:8], size, want[:8])
	}
	if err := overwrite(v.Path(sumName(s)), []byte(sumLine(s, want))); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return err
	}
	return v.CheckKernel(s)
}

// room refuses an image that does not fit, before the file is touched that it goes over.
func (v *Volume) room(size int64, over string) error {
	var have int64
	if st, err := os.Stat(v.Path(over)); err == nil {
		have = st.Size()
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

// writeFile writes a file in place, or makes it.
func writeFile(ctx context.Context, path string, image io.ReaderAt, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	src := &contextReader{ctx, io.NewSectionReader(image, 0, size)}
	if n, err := io.CopyBuffer(struct{ io.Writer }{f}, src, make([]byte, copyBuffer)); err != nil || n != size {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
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

func hashOf(ctx context.Context, r io.ReaderAt, size int64) ([]byte, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, &contextReader{ctx, io.NewSectionReader(r, 0, size)}, make([]byte, copyBuffer))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return h.Sum(nil), err
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
