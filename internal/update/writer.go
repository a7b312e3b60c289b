package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/verity"
)

// Merging says which gaps between needed chunks are fetched to save a request.
// So little costs less than the headers of one more range and a seek at the server.
var Merging = chunk.Merging{Gap: 4 << 10, MaxRanges: 150}

// Parallel is how many ranges are open at a time. It hides the way to the server and
// back; more than a few connections would only take from others.
const Parallel = 3

// writer carries out the steps that fill the other slot with one image.
type writer struct {
	s     *session
	m     *slotimage.Manifest
	block []byte // the manifest block, verified
	index *chunk.Index
	fetch chunk.Fetcher
	stats chunk.Stats
	full  bool // the whole image is fetched
}

func (w *writer) step(ctx context.Context, st slot.Step) (err error) {
	dst, err := w.s.Machine.OpenSlot(st.Slot, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	switch st.Kind {
	case slot.InvalidateSlot:
		return w.invalidate(dst, st.Slot)
	case slot.WriteData:
		return w.writeData(ctx, dst, st.Slot)
	case slot.WriteManifest:
		if _, err := dst.WriteAt(w.block, w.m.ManifestOffset()); err != nil {
			return fmt.Errorf("write manifest to slot %s: %w", st.Slot, err)
		}
		if err := dst.Sync(); err != nil {
			return err
		}
		w.s.manifests[st.Slot] = w.m
		w.s.setImage(st.Slot, &slot.Image{Version: w.m.Version, BuildID: w.m.BuildID})
		return nil
	}
	return fmt.Errorf("internal error: writer got step %q", st)
}

// invalidate makes the slot one that no boot would take for a finished image. A
// slot that an interrupted apply has left is so already; it is not touched, for
// its first chunk is as good as any other.
func (w *writer) invalidate(dst Block, x bootstate.Slot) error {
	w.s.manifests[x] = nil
	w.s.setImage(x, nil)
	offsets := []int64{w.m.ManifestOffset()}
	switch at, err := slotimage.Locate(dst); {
	case err == nil && at <= dst.Size()-slotimage.BlockSize:
		offsets = append(offsets, at)
	case errors.Is(err, slotimage.ErrEmpty):
	}
	for _, at := range offsets {
		b := make([]byte, slotimage.BlockSize)
		if _, err := dst.ReadAt(b, at); err != nil || bytes.HasPrefix(b, []byte("EOSSLOT")) {
			if err := slotimage.Invalidate(dst, dst.Size(), w.m.ManifestOffset()); err != nil {
				return fmt.Errorf("empty slot %s: %w", x, err)
			}
			return nil
		}
	}
	return nil
}

// writeData brings file system and hash tree into the slot.
func (w *writer) writeData(ctx context.Context, dst Block, x bootstate.Slot) error {
	seeds, release := w.seeds(ctx, dst)
	defer release()
	tree, err := verity.NewBuilder(w.m.VerityParams())
	if err != nil {
		return err
	}
	var last []byte
	w.s.Progress.Stage("write slot "+string(x), w.m.DataSize)
	defer w.s.Progress.Done()
	w.stats, err = chunk.Assemble(ctx, dst, w.index, seeds, w.fetch, chunk.Options{
		Merging:  Merging,
		Parallel: Parallel,
		HoldLast: true,
		OnPlan: func(p *chunk.Plan) error {
			if w.full = p.FullImage; w.full {
				w.s.Progress.Note("fetching the whole image, %d bytes in one request: chunk by chunk it would cost no less", p.FetchBytes)
			}
			return nil
		},
		OnChunk: func(off int64, data []byte) error {
			if off == w.m.DataSize {
				last = bytes.Clone(data)
				return nil
			}
			w.s.Progress.Add(int64(len(data)))
			if _, err := tree.Write(data); err != nil {
				return err
			}
			return w.s.fault("chunk at %d", off)
		},
	})
	if err != nil {
		return w.interrupted(err, x)
	}
	if !bytes.Equal(last, w.block) {
		return unverified(errors.New("assemble image: its manifest block is not the signed one"))
	}
	hashes, root, err := tree.Finish()
	if err != nil {
		return unverified(fmt.Errorf("assemble image: %w", err))
	}
	if root != w.m.RootHash {
		return unverified(fmt.Errorf("assemble image: root hash is %x, the manifest says %s", root[:8], w.m.RootHash))
	}
	if _, err := dst.WriteAt(hashes, w.m.TreeOffset()); err != nil {
		return fmt.Errorf("write hash tree to slot %s: %w", x, err)
	}
	return dst.Sync()
}

// interrupted says what a run that stopped in the middle leaves.
func (w *writer) interrupted(err error, x bootstate.Slot) error {
	var bad *chunk.InvalidError
	if errors.As(err, &bad) {
		return unverified(fmt.Errorf("write slot %s: %w", x, err))
	}
	var missing *chunk.MissingError
	if errors.As(err, &missing) && !errors.Is(err, context.Canceled) {
		return cli.Refuse(clientCode(err), fmt.Errorf("write slot %s: %w", x, err), "run os-update --apply again: what is there is kept")
	}
	return fmt.Errorf("write slot %s: %w", x, err)
}

// seeds are where chunks come from that need not be fetched: the slot that runs,
// and what the slot to write still holds of an older image.
func (w *writer) seeds(ctx context.Context, dst Block) (seeds []chunk.Seed, release func()) {
	release = func() {}
	look := func(x bootstate.Slot, b Block, size int64) {
		w.s.Progress.Stage("look at slot "+string(x), size)
		defer w.s.Progress.Done()
		// With the sizes of this index: those of the publisher may differ from ours.
		seed, err := w.index.Seed(ctx, &counted{b, w.s.Progress}, size)
		if err != nil {
			w.s.Progress.Note("slot %s: %v; what cannot be read there is fetched", x, err)
		}
		seed.Reader, seed.Target = b, b == dst
		seeds = append(seeds, seed)
	}
	running := w.s.d.Running
	if m := w.s.manifests[running]; m != nil {
		if b, err := w.s.Machine.OpenSlot(running, false); err == nil {
			release = func() { b.Close() }
			look(running, b, m.DataSize)
		}
	}
	look(running.Other(), dst, min(dst.Size(), w.index.Size()))
	return seeds, release
}

// counted tells a progress how much was read.
type counted struct {
	r io.ReaderAt
	p cli.Progress
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.p.Add(int64(n))
	return n, err
}

// checkIndex says whether an index can be the one of an image: it ends with the
// manifest block as a chunk of its own.
func checkIndex(x *chunk.Index, m *slotimage.Manifest, block []byte) error {
	n := len(x.Chunks)
	if n == 0 || x.Size() != m.DataSize+slotimage.BlockSize {
		return fmt.Errorf("chunk index is for %d bytes, the image has %d", x.Size(), m.DataSize+slotimage.BlockSize)
	}
	if last := x.Chunks[n-1]; last.Offset != m.DataSize || last.ID != chunk.Sum(block) {
		return errors.New("chunk index does not end with the signed manifest block")
	}
	return nil
}
