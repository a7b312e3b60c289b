// Package origintest makes disk images for tests of what fetches them.
package origintest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/chunk/chunktest"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// Where the partitions of a [Disk] are, in bytes.
const (
	mib     = 1 << 20
	Start   = mib // of the first one, which is the EFI partition
	ESPSize = 2 * mib
	DevSize = 4 * mib // of the root partition behind it
)

// Disk makes a disk image with sfdisk: an EFI partition, a root partition with a slot image of the
// given version, and something else.
func Disk(t testing.TB, version string) []byte {
	t.Helper()
	tree := toolstreetest.Open(t)
	name := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, 10*mib)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c := tree.Command("sfdisk", "--quiet", name)
	c.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nfirst-lba: 2048\nsize=%d, name=p.UEFI, type=U\nsize=%d, name=p.lxreadonly\nsize=%d, name=p.spare\n", ESPSize/512, DevSize/512, mib/512))
	if err := command.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[Start:], chunktest.Data(1, ESPSize))
	m := slotimagetest.Template()
	m.Version = version
	slot, _ := slotimagetest.Image(t, m, 300, 7)
	copy(b[Start+ESPSize:], slot)
	return b
}
