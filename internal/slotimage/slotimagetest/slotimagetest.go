// Package slotimagetest makes small slot images for tests: real manifests, real
// signatures and real hash trees over a filesystem that is only a superblock
// and noise. Everything is the same at every run.
package slotimagetest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/OSInside/eos/internal/slotimage"
)

// Key returns the n-th test key.
func Key(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "EOS test key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Public returns the public half of the n-th test key.
func Public(n int) ed25519.PublicKey { return Key(n).Public().(ed25519.PublicKey) }

// Template returns a manifest that lacks only what Assemble fills in.
func Template() slotimage.Manifest {
	return slotimage.Manifest{
		Name: "eos-test", Class: "test-device", Arch: "amd64", Version: "1.0-1",
		BuildID: "6b1d2f3c", Built: 1_700_000_000,
	}
}

// Filesystem returns what looks like a squashfs of the given number of blocks,
// the last of which is not full.
func Filesystem(blocks int, seed uint64) []byte {
	b := make([]byte, blocks*slotimage.BlockSize-100)
	r := rand.New(rand.NewPCG(seed, 2))
	for i := 96; i+8 <= len(b); i += 256 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	le := binary.LittleEndian
	copy(b, "hsqs")
	le.PutUint32(b[4:], 3)             // inodes
	le.PutUint32(b[8:], 1_700_000_000) // time
	le.PutUint32(b[12:], 128<<10)      // block size
	le.PutUint16(b[20:], 6)            // zstd
	le.PutUint16(b[22:], 17)           // logarithm of the block size
	le.PutUint16(b[28:], 4)            // version 4.0
	le.PutUint64(b[40:], uint64(len(b)))
	for i := range 6 { // tables
		le.PutUint64(b[48+8*i:], uint64(len(b)-8*(6-i)))
	}
	return b
}

// Image returns an image of the given number of data blocks, signed with keys,
// or with Key(1) when there are none.
func Image(t testing.TB, m slotimage.Manifest, blocks int, seed uint64, keys ...ed25519.PrivateKey) ([]byte, *slotimage.Manifest) {
	t.Helper()
	if len(keys) == 0 {
		keys = append(keys, Key(1))
	}
	f := &File{Bytes: Filesystem(blocks, seed)}
	out, err := slotimage.Assemble(t.Context(), f, int64(len(f.Bytes)), m, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return f.Bytes, out
}

// File is a file in memory that grows as it is written.
type File struct{ Bytes []byte }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(f.Bytes)) {
		return 0, io.EOF
	}
	n := copy(b, f.Bytes[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(b []byte, at int64) (int, error) {
	if missing := at + int64(len(b)) - int64(len(f.Bytes)); missing > 0 {
		f.Bytes = append(f.Bytes, make([]byte, missing)...)
	}
	return copy(f.Bytes[at:], b), nil
}

// Sync implements slotimage.Device; there is nothing to do.
func (f *File) Sync() error { return nil }
