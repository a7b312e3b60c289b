package slotimage

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"github.com/OSInside/eos/internal/squashfs"
	"github.com/OSInside/eos/internal/verity"
)

// Locate returns the offset of the manifest block, which the length of the
// filesystem tells. It is [ErrEmpty] where there is no filesystem. A block
// need not be there.
func Locate(r io.ReaderAt) (offset int64, err error) {
	s, err := squashfs.Read(r)
	switch {
	case errors.Is(err, squashfs.ErrNone):
		return 0, ErrEmpty
	case err != nil:
		return 0, err
	}
	return padded(s.BytesUsed), nil
}

// padded rounds n up to whole blocks.
func padded(n int64) int64 { return (n + BlockSize - 1) / BlockSize * BlockSize }

// ReadBlock finds and parses the manifest block of an image within size bytes
// (of a partition or a file) and verifies nothing. It is for showing what is
// there; [Read] is for everything else.
func ReadBlock(r io.ReaderAt, size int64) (*Block, error) {
	b, err := readBlock(r, size)
	if err != nil {
		return nil, fmt.Errorf("read slot manifest: %w", err)
	}
	return b, nil
}

func readBlock(r io.ReaderAt, size int64) (*Block, error) {
	offset, err := Locate(r)
	if err != nil {
		return nil, err
	}
	if offset+BlockSize > size {
		return nil, fmt.Errorf("%w: filesystem of %d bytes and manifest in %d", ErrTooLarge, offset, size)
	}
	var raw [BlockSize]byte
	if n, err := r.ReadAt(raw[:], offset); n < len(raw) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("at %d: %w", offset, err)
	}
	b, err := ParseBlock(raw[:])
	if err != nil {
		return nil, fmt.Errorf("at %d: %w", offset, err)
	}
	return b, nil
}

// Read returns the manifest of an image within size bytes (of a partition or a
// file) after its signature was verified. Errors are, in the order of the
// checks: [ErrEmpty] or one of package squashfs, [ErrTooLarge],
// [ErrNoManifest], [ErrVersion], [ErrFormat], [ErrUnsigned], [ErrBadSignature],
// [ErrUnknownKey], [ErrMismatch], and [ErrTooLarge] again for the whole image.
//
// Data and hash tree are not read; see [Verify].
func Read(r io.ReaderAt, size int64, accepted []ed25519.PublicKey) (*Manifest, error) {
	b, err := readBlock(r, size)
	if err != nil {
		return nil, fmt.Errorf("read slot manifest: %w", err)
	}
	m, err := b.Verify(accepted)
	if err != nil {
		return nil, fmt.Errorf("verify slot manifest: %w", err)
	}
	if err := b.Fits(r, size); err != nil {
		return nil, fmt.Errorf("verify slot manifest: %w", err)
	}
	return m, nil
}

// Fits says whether the block belongs to the filesystem at the start of r and
// the image that it describes is within size bytes.
func (b *Block) Fits(r io.ReaderAt, size int64) error {
	offset, err := Locate(r)
	switch m := &b.manifest; {
	case err != nil:
		return err
	case m.DataSize != offset:
		return fmt.Errorf("%w: it is for %d bytes of data, the filesystem has %d", ErrMismatch, m.DataSize, offset)
	case m.ImageSize > size:
		return fmt.Errorf("%w: image of %d bytes in %d", ErrTooLarge, m.ImageSize, size)
	}
	return nil
}

// Verify reads the whole image and compares each block with the hash tree and
// the tree with the root hash of m. What does not match is a
// [*verity.CorruptError]. Progress, when not nil, is told how many bytes were
// checked since its last call; their sum is m.DataSize.
func Verify(ctx context.Context, r io.ReaderAt, m *Manifest, progress func(n int64)) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("verify slot image: %w", err)
	}
	data := io.NewSectionReader(r, 0, m.DataSize)
	tree := io.NewSectionReader(r, m.TreeOffset(), m.ImageSize-m.TreeOffset())
	if err := verity.Check(ctx, data, tree, m.VerityParams(), m.RootHash, progress); err != nil {
		return fmt.Errorf("verify slot image: %w", err)
	}
	return nil
}
