package slotimage

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/OSInside/eos/internal/squashfs"
	"github.com/OSInside/eos/internal/verity"
)

// A File is what [Assemble] works on, an *os.File for example.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// A Device is what [Invalidate] works on. Sync returns when all that was
// written before would survive a power cut.
type Device interface {
	File
	Sync() error
}

// Assemble turns the squashfs that is the first dataSize bytes of dst into a
// slot image: it pads the filesystem, adds the hash tree, and last the manifest
// block, signed with each of keys. What template says about sizes and hashes is
// ignored; its Salt, Compressor and SquashfsLevel are filled in when they are
// not set. Equal input gives equal bytes.
//
// Bytes of dst behind the image stay as they are. Assemble does not sync.
func Assemble(ctx context.Context, dst File, dataSize int64, template Manifest, keys ...ed25519.PrivateKey) (*Manifest, error) {
	m, err := assemble(ctx, dst, dataSize, template, keys)
	if err != nil {
		return nil, fmt.Errorf("assemble slot image: %w", err)
	}
	return m, nil
}

func assemble(ctx context.Context, dst File, dataSize int64, m Manifest, keys []ed25519.PrivateKey) (*Manifest, error) {
	fs, err := squashfs.Read(dst)
	if err != nil {
		return nil, err
	}
	m.DataSize = padded(fs.BytesUsed)
	m.ImageSize = ImageSize(m.DataSize)
	if dataSize < fs.BytesUsed || dataSize > m.DataSize {
		return nil, fmt.Errorf("squashfs says it has %d bytes, got %d", fs.BytesUsed, dataSize)
	}
	if err := packed(&m, fs); err != nil {
		return nil, err
	}
	if m.Salt == (Hash{}) {
		m.Salt = deriveSalt(&m)
	}
	if _, err := dst.WriteAt(make([]byte, m.DataSize-fs.BytesUsed), fs.BytesUsed); err != nil {
		return nil, err
	}
	tree, root, err := build(ctx, io.NewSectionReader(dst, 0, m.DataSize), m.VerityParams())
	if err != nil {
		return nil, err
	}
	m.RootHash = root
	block, err := m.Sign(keys...)
	if err != nil {
		return nil, err
	}
	if _, err := dst.WriteAt(tree, m.TreeOffset()); err != nil {
		return nil, err
	}
	if _, err := dst.WriteAt(block, m.ManifestOffset()); err != nil {
		return nil, err
	}
	return &m, nil
}

// packed fills in, or compares, what the filesystem itself says about how it
// was packed.
func packed(m *Manifest, fs *squashfs.Super) error {
	if m.Compressor == "" {
		m.Compressor = string(fs.Compressor)
	}
	if m.SquashfsLevel == 0 {
		m.SquashfsLevel = fs.Level
	}
	if name, _, _ := strings.Cut(m.Compressor, "-"); name != string(fs.Compressor) {
		return fmt.Errorf("squashfs is packed with %s, the manifest says %s", fs.Compressor, m.Compressor)
	}
	if fs.Level != 0 && m.SquashfsLevel != fs.Level {
		return fmt.Errorf("squashfs is packed at level %d, the manifest says %d", fs.Level, m.SquashfsLevel)
	}
	return nil
}

// deriveSalt makes a salt of what names the image. A salt has to differ between
// images, it need not be secret, and with a random one no image could be built
// twice.
func deriveSalt(m *Manifest) Hash {
	return sha256.Sum256([]byte(strings.Join([]string{
		"EOS slot salt v1", m.Name, m.Class, m.Arch, m.Version, m.BuildID,
	}, "\x00")))
}

// build reads data and returns its hash tree.
func build(ctx context.Context, data io.Reader, p verity.Params) ([]byte, Hash, error) {
	b, err := verity.NewBuilder(p)
	if err != nil {
		return nil, Hash{}, err
	}
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return nil, Hash{}, err
		}
		n, err := data.Read(buf)
		if _, err := b.Write(buf[:n]); err != nil {
			return nil, Hash{}, err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, Hash{}, err
		}
	}
	tree, root, err := b.Finish()
	return tree, root, err
}

// Invalidate makes a slot of size bytes empty, so that no moment of writing
// another image into it looks like a finished one. It clears the manifest
// block that is there, clears the block at each of offsets, which is where the
// manifest blocks of images yet to be written will be, and then the start of
// the filesystem, with a sync after each of the two. It may be interrupted at
// any time and repeated.
//
// Clearing only the filesystem would leave the old manifest behind, signed and
// valid, and a new filesystem of the same length would make it count again.
func Invalidate(d Device, size int64, offsets ...int64) error {
	if err := invalidate(d, size, offsets); err != nil {
		return fmt.Errorf("empty slot: %w", err)
	}
	return nil
}

func invalidate(d Device, size int64, offsets []int64) error {
	for _, at := range offsets {
		if at < 0 || at%BlockSize != 0 || at > size-BlockSize {
			return fmt.Errorf("manifest block at %d of %d bytes", at, size)
		}
	}
	// Where the superblock cannot be read there is no manifest to be found, and
	// writing may well repair the medium.
	if at, err := Locate(d); err == nil && at <= size-BlockSize {
		offsets = append(offsets[:len(offsets):len(offsets)], at)
	}
	var zeros [BlockSize]byte
	for _, at := range offsets {
		if _, err := d.WriteAt(zeros[:], at); err != nil {
			return err
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if _, err := d.WriteAt(zeros[:], 0); err != nil {
		return err
	}
	return d.Sync()
}
