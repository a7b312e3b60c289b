package chunk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
)

// casync runs casync from the tools tree.
func casync(t *testing.T, args ...string) {
	t.Helper()
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if errors.Is(err, toolstree.ErrNoMaker) && os.Getenv("EOS_TEST_MUST_RUN") == "" && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Run(t.Context(), tree.Command(append([]string{"casync"}, args...)...)); err != nil {
		t.Fatal(err)
	}
}

// TestCasyncReadsOurs lets casync rebuild an image from our index and a store
// of our chunks: layout, offsets, ids and digest are then what it expects.
func TestCasyncReadsOurs(t *testing.T) {
	image := chunktest.Data(20, 3<<20)
	x := index(t, image, int64(len(image))-4096)
	dir := t.TempDir()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range x.Chunks {
		sub := filepath.Join(dir, "store", e.ID.String()[:4])
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		data := enc.EncodeAll(image[e.Offset:e.End()], nil)
		if err := os.WriteFile(filepath.Join(sub, e.ID.String()+".cacnk"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, out := filepath.Join(dir, "image.caibx"), filepath.Join(dir, "out")
	if err := os.WriteFile(file, x.Marshal(), 0o644); err != nil {
		t.Fatal(err)
	}
	casync(t, "extract", "--store="+filepath.Join(dir, "store"), "--seed-output=no", file, out)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, image) {
		t.Errorf("casync extract gave %d bytes, %v; want the image", len(got), err)
	}
}

// TestParseCasync reads an index that casync made.
func TestParseCasync(t *testing.T) {
	image := chunktest.Data(21, 3<<20)
	dir := t.TempDir()
	in, file := filepath.Join(dir, "image"), filepath.Join(dir, "image.caibx")
	if err := os.WriteFile(in, image, 0o644); err != nil {
		t.Fatal(err)
	}
	casync(t, "make", "--digest=sha256", "--store="+filepath.Join(dir, "store"), file, in)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	x, err := chunk.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x.Marshal(), b) {
		t.Error("Marshal(Parse(index of casync)) differs from it")
	}
	if x.Size() != int64(len(image)) {
		t.Errorf("Size() = %d, want %d", x.Size(), len(image))
	}
	for i, e := range x.Chunks {
		if got := chunk.Sum(image[e.Offset:e.End()]); got != e.ID {
			t.Errorf("chunk %d is %s, index says %s", i, got, e.ID)
		}
	}
}
