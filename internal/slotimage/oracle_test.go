package slotimage_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// TestAgainstRealTools makes an image of a real filesystem and has the tools
// that know its parts check them where they are in the image.
func TestAgainstRealTools(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	source, image := filepath.Join(dir, "source"), filepath.Join(dir, "image")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	noise := slotimagetest.Filesystem(300, 4)
	for i := range noise { // dense, so that it takes more than a hash block
		noise[i] ^= byte(i*i>>3) ^ byte(i>>9)*31
	}
	if err := os.WriteFile(filepath.Join(source, "noise"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	toolstreetest.Output(t, tree, "mksquashfs", source, image, "-quiet", "-no-progress",
		"-comp", "zstd", "-Xcompression-level", "3", "-noD", "-nopad")
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := slotimage.Assemble(t.Context(), f, info.Size(), slotimagetest.Template(), slotimagetest.Key(1))
	if err != nil {
		t.Fatal(err)
	}
	if m.DataBlocks() <= 128 || m.SquashfsLevel != 3 {
		t.Errorf("image of %d blocks at level %d, want more than 128 and level 3", m.DataBlocks(), m.SquashfsLevel)
	}
	info, err = f.Stat()
	if err != nil || info.Size() != m.ImageSize {
		t.Errorf("file has %d bytes (%v), the manifest says %d", info.Size(), err, m.ImageSize)
	}
	if _, err := slotimage.Read(f, info.Size(), accepted(1)); err != nil {
		t.Error(err)
	}

	unpacked := toolstreetest.Output(t, tree, "unsquashfs", "-cat", image, "noise")
	if unpacked != string(noise) {
		t.Error("unsquashfs reads another file from the image than went in")
	}
	verify := tree.Command("veritysetup", "verify", "--no-superblock",
		"--data-blocks", fmt.Sprint(m.DataBlocks()), "--hash-offset", fmt.Sprint(m.TreeOffset()),
		"--salt", m.Salt.String(), image, image, m.RootHash.String())
	if err := command.Run(t.Context(), verify); err != nil {
		t.Errorf("veritysetup does not accept the image: %v", err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 10), m.DataSize/2); err != nil {
		t.Fatal(err)
	}
	if err := command.Run(t.Context(), verify); err == nil {
		t.Error("veritysetup accepts the image after a change")
	}
	if err := slotimage.Verify(t.Context(), f, m, nil); err == nil {
		t.Error("Verify accepts the image after a change")
	}
}
