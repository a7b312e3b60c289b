package slotimage_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
	"github.com/OSInside/eos/internal/verity"
)

func accepted(ns ...int) (keys []ed25519.PublicKey) {
	for _, n := range ns {
		keys = append(keys, slotimagetest.Public(n))
	}
	return keys
}

func TestAssembleThenReadAndVerify(t *testing.T) {
	for _, blocks := range []int{1, 2, 3, 128, 129, 300} {
		image, m := slotimagetest.Image(t, slotimagetest.Template(), blocks, 1, slotimagetest.Key(1), slotimagetest.Key(2))
		if int64(len(image)) != m.ImageSize {
			t.Errorf("Assemble of %d blocks made %d bytes, the manifest says %d", blocks, len(image), m.ImageSize)
		}
		for _, key := range []int{1, 2} {
			r := bytes.NewReader(image)
			got, err := slotimage.Read(r, r.Size(), accepted(key))
			if err != nil {
				t.Fatalf("Read(%d blocks) = %v", blocks, err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Errorf("Read(%d blocks) differs from what Assemble returned (-want +got):\n%s", blocks, diff)
			}
			var sum int64
			if err := slotimage.Verify(t.Context(), r, got, func(n int64) { sum += n }); err != nil || sum != m.DataSize {
				t.Errorf("Verify(%d blocks) = %v with progress of %d, want nil and %d", blocks, err, sum, m.DataSize)
			}
		}
	}
}

func TestAssembleFillsIn(t *testing.T) {
	_, m := slotimagetest.Image(t, slotimagetest.Template(), 2, 1)
	want := slotimagetest.Template()
	want.Compressor, want.SquashfsLevel = "zstd", 15
	want.DataSize, want.ImageSize = 8192, 16384
	want.Salt, want.RootHash = m.Salt, m.RootHash
	if diff := cmp.Diff(&want, m); diff != "" {
		t.Errorf("Assemble(template) differs (-want +got):\n%s", diff)
	}
	if (m.Salt == slotimage.Hash{} || m.RootHash == slotimage.Hash{}) {
		t.Error("Assemble left salt or root hash empty")
	}
}

func TestAssembleIsDeterministic(t *testing.T) {
	one, m1 := slotimagetest.Image(t, slotimagetest.Template(), 5, 1)
	two, _ := slotimagetest.Image(t, slotimagetest.Template(), 5, 1)
	if !bytes.Equal(one, two) {
		t.Error("Assemble made two images of the same input")
	}
	// Whatever a template says that Assemble computes has no influence.
	odd := slotimagetest.Template()
	odd.DataSize, odd.ImageSize, odd.RootHash = 1, 2, slotimage.Hash{3}
	three, _ := slotimagetest.Image(t, odd, 5, 1)
	if !bytes.Equal(one, three) {
		t.Error("Assemble used sizes or hashes of the template")
	}
	next := slotimagetest.Template()
	next.BuildID = "another"
	if _, m2 := slotimagetest.Image(t, next, 5, 1); m1.Salt == m2.Salt || m1.RootHash == m2.RootHash {
		t.Error("Assemble gave the same salt to two builds")
	}
	next.Salt = slotimage.Hash{1}
	if _, m2 := slotimagetest.Image(t, next, 5, 1); m2.Salt != next.Salt {
		t.Errorf("Assemble replaced the salt of the template by %s", m2.Salt)
	}
}

func TestAssembleRefuses(t *testing.T) {
	whole := int64(len(slotimagetest.Filesystem(3, 1)))
	for _, tt := range []struct {
		name string
		size int64
		edit func(*slotimage.Manifest)
		keys []ed25519.PrivateKey
		want string
	}{
		{"short file", whole - 1, nil, nil, "squashfs says it has 12188 bytes, got 12187"},
		{"more after it", 3*slotimage.BlockSize + 1, nil, nil, "squashfs says it has 12188 bytes, got 12289"},
		{"another compressor", whole, func(m *slotimage.Manifest) { m.Compressor = "xz-5.8" }, nil, "packed with zstd, the manifest says xz-5.8"},
		{"another level", whole, func(m *slotimage.Manifest) { m.SquashfsLevel = 19 }, nil, "packed at level 15, the manifest says 19"},
		{"no class", whole, func(m *slotimage.Manifest) { m.Class = "" }, nil, `class ""`},
		{"no keys", whole, nil, []ed25519.PrivateKey{}, "0 keys, want 1 to 8"},
		{"too many keys", whole, nil, manyKeys(9), "9 keys, want 1 to 8"},
		{"a key twice", whole, nil, append(manyKeys(2), slotimagetest.Key(1)), "given twice"},
		{"half a key", whole, nil, []ed25519.PrivateKey{slotimagetest.Key(1)[:32]}, "not an Ed25519 private key"},
	} {
		f := &slotimagetest.File{Bytes: slotimagetest.Filesystem(3, 1)}
		m := slotimagetest.Template()
		if tt.edit != nil {
			tt.edit(&m)
		}
		if tt.keys == nil {
			tt.keys = manyKeys(1)
		}
		_, err := slotimage.Assemble(t.Context(), f, tt.size, m, tt.keys...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Assemble = %v, want %q", tt.name, err, tt.want)
		}
		if _, err := slotimage.ReadBlock(f, int64(len(f.Bytes))); err == nil {
			t.Errorf("%s: Assemble left a manifest behind", tt.name)
		}
	}
	f := &slotimagetest.File{Bytes: make([]byte, 8192)}
	if _, err := slotimage.Assemble(t.Context(), f, 8192, slotimagetest.Template(), manyKeys(1)...); err == nil {
		t.Error("Assemble without a filesystem = nil, want an error")
	}
	f.Bytes = slotimagetest.Filesystem(3, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := slotimage.Assemble(ctx, f, whole, slotimagetest.Template(), manyKeys(1)...); !errors.Is(err, context.Canceled) {
		t.Errorf("Assemble with a context that is over = %v, want %v", err, context.Canceled)
	}
}

func TestSignRefusesInvalid(t *testing.T) {
	_, good := slotimagetest.Image(t, slotimagetest.Template(), 2, 1)
	for name, edit := range map[string]func(*slotimage.Manifest){
		"name":     func(m *slotimage.Manifest) { m.Name = "a b" },
		"arch":     func(m *slotimage.Manifest) { m.Arch = "" },
		"version":  func(m *slotimage.Manifest) { m.Version = "1/2" },
		"build_id": func(m *slotimage.Manifest) { m.BuildID = strings.Repeat("a", 129) },
		"data":     func(m *slotimage.Manifest) { m.DataSize++ },
		"image":    func(m *slotimage.Manifest) { m.ImageSize++ },
		"root":     func(m *slotimage.Manifest) { m.RootHash = slotimage.Hash{} },
	} {
		m := *good
		edit(&m)
		if _, err := m.Sign(slotimagetest.Key(1)); !errors.Is(err, slotimage.ErrManifest) {
			t.Errorf("Sign with a wrong %s = %v, want ErrManifest", name, err)
		}
		err := slotimage.Verify(t.Context(), bytes.NewReader(nil), &m, nil)
		if !errors.Is(err, slotimage.ErrManifest) {
			t.Errorf("Verify with a wrong %s = %v, want ErrManifest", name, err)
		}
	}
}

// TestMessages are what an operator reads.
func TestMessages(t *testing.T) {
	image, m := slotimagetest.Image(t, slotimagetest.Template(), 2, 1)
	read := func(b []byte, keys ...int) error {
		_, err := slotimage.Read(bytes.NewReader(b), int64(len(b)), accepted(keys...))
		return err
	}
	unsigned := slices.Clone(image)
	clear(unsigned[8192+3072 : 8192+4096])
	altered := slices.Clone(image)
	altered[8192+3072+50] ^= 1
	ids := func() string {
		b, err := slotimage.ReadBlock(bytes.NewReader(image), m.ImageSize)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(b.KeyIDs(), " ")
	}()
	if len(ids) != 16 {
		t.Fatalf("KeyIDs = %q, want one of 16 digits", ids)
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{read(nil, 1), "read slot manifest: slot is empty"},
		{read(image[:8192], 1), "read slot manifest: slot image is longer than the space it is in: filesystem of 8192 bytes and manifest in 8192"},
		{read(image[:len(image)-1], 1), "verify slot manifest: slot image is longer than the space it is in: image of 16384 bytes in 16383"},
		{read(slices.Concat(image[:8192], make([]byte, 8192)), 1), "read slot manifest: at 8192: no slot manifest"},
		{read(unsigned, 1), "verify slot manifest: slot manifest is not signed"},
		{read(altered, 1), "verify slot manifest: slot manifest has a wrong signature (key " + ids + ")"},
		{read(image, 2), "verify slot manifest: slot manifest is signed by no accepted key (signed by " + ids + ")"},
	} {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("Read = %v, want %q", tt.err, tt.want)
		}
	}
}

type failingReader struct{ error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.error }

func TestReadErrors(t *testing.T) {
	if _, err := slotimage.Read(failingReader{iotest.ErrTimeout}, 1<<20, accepted(1)); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("Read of a bad disk = %v, want %v", err, iotest.ErrTimeout)
	}
	// A device that is shorter than it says.
	image, m := slotimagetest.Image(t, slotimagetest.Template(), 2, 1)
	r := bytes.NewReader(image[:9000])
	if _, err := slotimage.Read(r, m.ImageSize, accepted(1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read of a device that is cut = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	err := slotimage.Verify(t.Context(), bytes.NewReader(image[:8192]), m, nil)
	var corrupt *verity.CorruptError
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &corrupt) {
		t.Errorf("Verify of a device that is cut = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// TestOneBit flips any bit of an image: reading or verifying has to notice,
// except behind its end.
func TestOneBit(t *testing.T) {
	image, m := slotimagetest.Image(t, slotimagetest.Template(), 200, 1)
	check := func(b []byte) error {
		r := bytes.NewReader(b)
		got, err := slotimage.Read(r, r.Size(), accepted(1))
		if err != nil {
			return err
		}
		if *got != *m {
			t.Errorf("Read of an altered image returned another manifest: %+v", got)
		}
		return slotimage.Verify(context.Background(), r, got, nil)
	}
	if err := check(image); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var at int
		switch rapid.IntRange(0, 2).Draw(t, "part") {
		case 0:
			at = rapid.IntRange(0, int(m.DataSize)-1).Draw(t, "at")
		case 1:
			at = rapid.IntRange(int(m.ManifestOffset()), int(m.TreeOffset())-1).Draw(t, "at")
		case 2:
			at = rapid.IntRange(int(m.TreeOffset()), len(image)-1).Draw(t, "at")
		}
		b := slices.Clone(image)
		b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := check(b); err == nil {
			t.Fatalf("a bit flipped at %d went unnoticed", at)
		}
	})
}
