package chunk_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

func BenchmarkMake(b *testing.B) {
	image := chunktest.Data(40, 64<<20)
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		if _, err := chunk.Make(context.Background(), bytes.NewReader(image)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAssembleKept(b *testing.B) {
	image := chunktest.Data(41, 64<<20)
	x := index(b, image)
	dev := &chunktest.Device{Bytes: image, CutAt: -1}
	b.SetBytes(int64(len(image)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := chunk.Assemble(context.Background(), dev, x, nil, nil, chunk.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
