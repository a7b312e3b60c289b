package grub

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// A payload stands for a kernel image: an EFI program that says its name and restarts.
func payload(t *testing.T, tree *toolstree.Tree, name string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "payload.efi")
	// The serial console is the firmware's; the payload needs no driver of its own.
	config := fmt.Sprintf("echo KERNEL %s\nreboot\n", name)
	if err := standalone(t.Context(), tree, config, out); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBootLoader boots the boot loader itself, with its real configuration, over and
// over until it has gone through what each case expects.
func TestBootLoader(t *testing.T) {
	vmtest.Need(t)
	tree := toolstreetest.Open(t)
	a, b := payload(t, tree, "A"), payload(t, tree, "B")
	loader := filepath.Join(t.TempDir(), "loader.efi")
	if err := Standalone(t.Context(), tree, loader); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	committed := func(tries int, good bool) bootstate.SlotState {
		return bootstate.SlotState{Status: bootstate.Committed, Tries: tries, Good: good}
	}
	flipped := bytes.Clone(a)
	flipped[len(flipped)/2] ^= 1
	sum := func(name string, b []byte) []byte {
		return fmt.Appendf(nil, "%x  /EFI/eos/%s.efi\n", sha256.Sum256(b), name)
	}
	for _, c := range []struct {
		name  string
		files map[string][]byte
		// want are parts of lines that have to appear on the console in this order.
		want []string
		last *bootstate.State // nil: the state must not have been touched
		copy *bootstate.State // the same of its copy
	}{
		{
			name: "trial once then the default to its last resort",
			files: map[string][]byte{
				"bootstate": bootstate.State{Default: bootstate.A, Once: bootstate.B, A: committed(1, false), B: bootstate.SlotState{Status: bootstate.Trial}}.Marshal(),
			},
			want: []string{
				"EOS: slot b (trial)", "KERNEL B",
				"EOS: slot a (tries left 0)", "KERNEL A",
				"EOS: slot a (last resort, no slot has tries left)", "KERNEL A",
			},
			last: &bootstate.State{Default: bootstate.A, Booted: bootstate.A, A: committed(0, false), B: bootstate.SlotState{Status: bootstate.Trial}},
		},
		{
			name: "flipped bit in the default's kernel image",
			files: map[string][]byte{
				"bootstate": bootstate.State{Default: bootstate.A, A: committed(3, true), B: committed(3, true)}.Marshal(),
				"a.efi":     flipped,
			},
			want: []string{"the kernel image of slot a cannot be used", "EOS: slot b (fallback from slot a, tries left 3)", "KERNEL B"},
			last: &bootstate.State{Default: bootstate.A, Booted: bootstate.B, A: committed(0, false), B: committed(3, false)},
		},
		{
			name: "a kernel image that is no program but fits its checksum",
			files: map[string][]byte{
				"bootstate": bootstate.State{Default: bootstate.B, A: committed(2, false), B: committed(3, true)}.Marshal(),
				"b.efi":     []byte("not a program"),
				"b.sum":     sum("b", []byte("not a program")),
			},
			want: []string{"the kernel image of slot b cannot be used", "EOS: slot a (fallback from slot b, tries left 1)", "KERNEL A"},
			last: &bootstate.State{Default: bootstate.B, Booted: bootstate.A, A: committed(1, false), B: committed(0, false)},
		},
		{
			name:  "boot state of zeros and slot a with an empty checksum file",
			files: map[string][]byte{"bootstate": make([]byte, 1024), "a.sum": nil},
			want:  []string{"/bootstate cannot be read", "/bootstate2 cannot be read", "EOS: no boot state", "EOS: slot b (unreadable boot state)", "KERNEL B"},
		},
		{
			name: "boot state of noise and a copy that counts down",
			files: map[string][]byte{
				"bootstate":  bytes.Repeat([]byte{0xa5}, 1024),
				"bootstate2": bootstate.State{Default: bootstate.B, A: committed(3, true), B: committed(1, false)}.Marshal(),
			},
			want: []string{
				"/bootstate cannot be read", "EOS: slot b (tries left 0)", "KERNEL B",
				"/bootstate cannot be read", "EOS: slot a (fallback from slot b, tries left 3)", "KERNEL A",
			},
			copy: &bootstate.State{Default: bootstate.B, Booted: bootstate.A, A: committed(3, false), B: committed(0, false)},
		},
		{
			name: "nothing to start",
			files: map[string][]byte{
				"bootstate": bootstate.State{Default: bootstate.A, A: committed(3, true), B: bootstate.SlotState{Status: bootstate.Failed}}.Marshal(),
				"a.sum":     make([]byte, 80),
			},
			want: []string{"EOS: no slot can be started", "Restarting in 10 seconds"},
			last: &bootstate.State{Default: bootstate.A, A: committed(0, false), B: bootstate.SlotState{Status: bootstate.Failed}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			files := map[string][]byte{"a.efi": a, "b.efi": b, "a.sum": sum("a", a), "b.sum": sum("b", b)}
			for name, content := range c.files {
				files[name] = content
			}
			for name, content := range files {
				write(t, filepath.Join(dir, Dir, name), content)
			}
			write(t, filepath.Join(dir, Program), program)
			img := makeESP(t, tree, dir, "64M")
			want := c.want
			console := run(t, tree, img, vmtest.Slow(6*time.Minute), func(line string) bool {
				if strings.Contains(line, want[0]) {
					want = want[1:]
				}
				return len(want) == 0
			})
			for _, line := range console {
				if strings.Contains(line, "KERNEL") || strings.Contains(line, "EOS: slot") {
					t.Log(line)
				}
			}
			for i, last := range []*bootstate.State{c.last, c.copy} {
				name := bootstate.Files[i]
				expect := c.files[name]
				if last != nil {
					expect = last.Marshal()
				}
				if expect == nil {
					continue // there is no copy
				}
				got, err := os.ReadFile(fromESP(t, tree, img, Dir+"/"+name))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, expect) {
					t.Errorf("%s on the disk is %.200q, want %.200q", name, got, expect)
				}
			}
		})
	}
}

func TestStandaloneIsReproducible(t *testing.T) {
	tree := toolstreetest.Open(t)
	var first []byte
	for i := range 2 {
		out := filepath.Join(t.TempDir(), "loader.efi")
		if err := Standalone(t.Context(), tree, out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = b
			time.Sleep(1100 * time.Millisecond) // time stamps have seconds
			continue
		}
		if !bytes.Equal(first, b) {
			t.Errorf("two runs of Standalone differ, %d and %d bytes", len(first), len(b))
		}
	}
	if len(first) > 4<<20 {
		t.Errorf("the boot loader has %d bytes, want at most 4 MiB", len(first))
	}
	t.Logf("%d bytes", len(first))
}
