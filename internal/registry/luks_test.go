package registry

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/registry/head"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// TestHeader makes a header with the real cryptsetup: it fills its area and no more, its changes can be
// counted, and if the sector that turned the mark into a registry is torn, the second header is found and
// cryptsetup puts the first one back.
func TestHeader(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	header, dev := filepath.Join(dir, "head"), filepath.Join(dir, "dev")
	for name, size := range map[string]int64{header: head.Size, dev: 64 << 20} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
	}
	key, err := newSecret(bytes.Repeat([]byte("key"), 20))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	c := tree.Command(luksFormat(header, dev)...)
	c.Files = []*os.File{key.f}
	if err := command.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(header)
	if err != nil || len(whole) != head.Size {
		t.Fatalf("the header has %d bytes, %v, want %d", len(whole), err, head.Size)
	}
	first, ok := head.Change(whole)
	if !ok || head.Classify(whole[:head.Room], "") != head.LUKS {
		t.Errorf("header: change %v, kind %v", ok, head.Classify(whole[:head.Room], ""))
	}
	dump := toolstreetest.Output(t, tree, "cryptsetup", "luksDump", header)
	for _, want := range []string{"offset: 4194304 [bytes]", "cipher: aes-xts-plain64", "sector: 4096 [bytes]", "Label:         \tp.spare"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump lacks %q:\n%s", want, dump)
		}
	}

	mark := head.Mark("x")
	for name, cut := range map[string][2]int{"first": {0, sector / 2}, "second": {sector / 2, sector}} {
		torn := bytes.Clone(whole)
		copy(torn[cut[0]:cut[1]], mark[cut[0]:cut[1]]) // this half of the sector is still the mark's
		if got := head.Classify(torn[:head.Room], "x"); got != head.LUKS {
			t.Errorf("%s half torn: %v, want LUKS2", name, got)
		}
		if err := os.WriteFile(header, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		toolstreetest.Output(t, tree, "cryptsetup", "luksDump", header)
		mended, err := os.ReadFile(header)
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := head.Change(mended); !ok || again < first {
			t.Errorf("%s half torn, after cryptsetup has read it: change %d, %v, was %d", name, again, ok, first)
		}
	}
}
