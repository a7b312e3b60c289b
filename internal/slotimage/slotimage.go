// Package slotimage is the slot image format: a squashfs filesystem, one signed
// manifest block, and the dm-verity hash tree of the filesystem.
//
//	0                 DataSize           +4096                ImageSize
//	| squashfs, zeros | manifest block   | hash tree          |
//
// The format is written down in docs/design/slot-image.md. The calls most
// callers need are [Read], which finds and verifies the manifest of a slot or
// an image file, [Verify], which compares every byte with the hash tree that the
// manifest signs, and [Assemble], which turns a filesystem into an image.
//
// Reading is strict: every manifest has exactly one encoding, and a block that
// is anything else is an error. Arbitrary bytes never cause a panic, nor more
// memory than a few blocks. Nothing of a manifest is to be used for a decision
// before [Block.Verify] returned it.
//
// The package does no I/O but through the given readers and writers, starts no
// goroutines and keeps no state. It imports the standard library only, the
// initramfs depends on it. It does not decide whether an image is wanted (older,
// other class): that is up to the caller.
//
// The manifest block is written last. An interrupted write therefore leaves a
// slot without manifest, which is empty, provided that the slot was made empty
// with [Invalidate] before.
package slotimage

import (
	"errors"

	"github.com/OSInside/eos/internal/verity"
)

// BlockSize is the unit of the format: the size of the manifest block and of
// the blocks of the hash tree.
const BlockSize = verity.BlockSize

var (
	// ErrEmpty says that a slot holds no filesystem.
	ErrEmpty = errors.New("slot is empty")
	// ErrNoManifest says that a filesystem is there and the manifest block is
	// not, as after an interrupted write.
	ErrNoManifest = errors.New("no slot manifest")
	// ErrFormat says that a manifest block is not as the format says.
	ErrFormat = errors.New("malformed slot manifest")
	// ErrVersion says that the block is of a format not known here.
	ErrVersion = errors.New("unsupported slot manifest format")
	// ErrUnsigned says that a manifest carries no signature.
	ErrUnsigned = errors.New("slot manifest is not signed")
	// ErrUnknownKey says that no accepted key signed the manifest.
	ErrUnknownKey = errors.New("slot manifest is signed by no accepted key")
	// ErrBadSignature says that a signature in the name of an accepted key is
	// wrong: the manifest was changed after it was signed.
	ErrBadSignature = errors.New("slot manifest has a wrong signature")
	// ErrMismatch says that a signed manifest does not belong to the filesystem
	// it was found behind.
	ErrMismatch = errors.New("slot manifest does not match the filesystem")
	// ErrTooLarge says that an image does not fit where it was found, as after
	// a short copy.
	ErrTooLarge = errors.New("slot image is longer than the space it is in")
	// ErrManifest says that a manifest holds a value that it may not.
	ErrManifest = errors.New("invalid slot manifest")
)
