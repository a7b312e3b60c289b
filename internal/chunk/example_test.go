package chunk_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/chunk/chunktest"
)

// A publisher makes an index; a device that holds an older image assembles the
// new one from it, and fetches only the rest.
func Example() {
	ctx := context.Background()
	older := chunktest.Data(1, 1<<20)
	newer := bytes.Join([][]byte{older[:300_000], []byte("a security fix"), older[300_000:]}, nil)

	index, err := chunk.Make(ctx, bytes.NewReader(newer))
	if err != nil {
		fmt.Println(err)
		return
	}

	running, err := chunk.ScanSeed(ctx, bytes.NewReader(older), int64(len(older)))
	if err != nil {
		fmt.Println(err)
		return
	}
	slot := &chunktest.Device{Bytes: make([]byte, len(newer)), CutAt: -1}
	stats, err := chunk.Assemble(ctx, slot, index, []chunk.Seed{running}, &chunktest.Memory{Image: newer}, chunk.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("right:", bytes.Equal(slot.Bytes, newer))
	fmt.Println("chunks:", stats.Chunks, "fetched:", stats.Fetched, "requests:", stats.Requests)
	// Output:
	// right: true
	// chunks: 70 fetched: 1 requests: 1
}
