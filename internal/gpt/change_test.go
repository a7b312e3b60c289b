package gpt_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const newGUID = "11223344-5566-4788-99aa-bbccddeeff00"

// larger is the disk of makeDisk copied to one with more sectors, where the second copy of the
// table is not at the end.
func larger(sectors int) []byte {
	return append(makeDisk(good), make([]byte, (sectors-diskSectors)*512)...)
}

func change() gpt.Change { return gpt.Change{Name: "p.lxrootclone1", GUID: newGUID, Align: 4096} }

func grow(t *testing.T, disk []byte, c gpt.Change) []gpt.Write {
	t.Helper()
	w, err := gpt.Grow(bytes.NewReader(disk), int64(len(disk)), c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func put(disk []byte, w ...gpt.Write) []byte {
	out := bytes.Clone(disk)
	for _, x := range w {
		copy(out[x.At:], x.Data)
	}
	return out
}

func TestGrow(t *testing.T) {
	for _, disk := range [][]byte{makeDisk(good), larger(diskSectors + 1), larger(1000)} {
		out := put(disk, grow(t, disk, change())...)
		table, err := read(out)
		if err != nil {
			t.Fatal(err)
		}
		want, err := read(disk)
		if err != nil {
			t.Fatal(err)
		}
		last := &want.Partitions[len(want.Partitions)-1]
		last.GUID = newGUID
		end := (int64(len(disk)) - 33*512) / 4096 * 4096
		last.Size = max(last.Size, end-last.Start)
		if diff := cmp.Diff(want, table); diff != "" {
			t.Errorf("%d bytes: %s", len(disk), diff)
		}
		// The copy says the same.
		clear(out[512:1024])
		table, err = read(out)
		want.Backup = true
		if err != nil || !cmp.Equal(want, table) {
			t.Errorf("copy at the end: %v, %s", err, cmp.Diff(want, table))
		}
		if again := grow(t, put(disk, grow(t, disk, change())...), change()); again != nil {
			t.Errorf("once more: %d writes, want none", len(again))
		}
	}
}

// Power may go at any moment: during a write any of its sectors may be on the disk or not.
func TestGrowIsCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	healthy, onlyBackup := larger(1000), makeDisk(good)
	clear(onlyBackup[512:1024])
	for name, disk := range map[string][]byte{"healthy": healthy, "first copy lost": onlyBackup, "same size": makeDisk(good)} {
		before, err := read(disk)
		if err != nil {
			t.Fatal(err)
		}
		writes := grow(t, disk, change())
		after, err := read(put(disk, writes...))
		if err != nil {
			t.Fatal(err)
		}
		before.Backup, after.Backup = false, false
		seen := map[string]int{}
		for range 3000 {
			cut := rnd.IntN(len(writes) + 1)
			state := put(disk, writes[:cut]...)
			if cut < len(writes) {
				w := writes[cut]
				for at := 0; at < len(w.Data); at += 512 {
					if rnd.IntN(2) == 0 {
						state = put(state, gpt.Write{At: w.At + int64(at), Data: w.Data[at : at+512]})
					}
				}
			}
			got, err := read(state)
			if err != nil {
				t.Fatalf("%s, cut in write %d: %v", name, cut, err)
			}
			got.Backup = false
			switch {
			case cmp.Equal(got, before):
				seen["before"]++
			case cmp.Equal(got, after):
				seen["after"]++
			default:
				t.Fatalf("%s, cut in write %d: %s", name, cut, cmp.Diff(before, got))
			}
			// The next start does it again, and ends where it would have ended.
			done, err := read(put(state, grow(t, state, change())...))
			if err != nil {
				t.Fatal(err)
			}
			done.Backup = false
			if !cmp.Equal(done, after) {
				t.Fatalf("%s, cut in write %d and done again: %s", name, cut, cmp.Diff(after, done))
			}
		}
		if seen["before"] == 0 || seen["after"] == 0 {
			t.Errorf("%s: saw %v, want both tables", name, seen)
		}
	}
}

func TestGrowRefuses(t *testing.T) {
	disk := larger(1000)
	for _, c := range []struct {
		change gpt.Change
		words  string
		err    error
	}{
		{gpt.Change{Name: "p.UEFI"}, "is behind it", gpt.ErrNotLast},
		{gpt.Change{Name: "p.spare"}, "p.spare", gpt.ErrNoPartition},
		{gpt.Change{Name: "p.lxrootclone1", GUID: "x"}, "not a GUID", nil},
		{gpt.Change{Name: "p.lxrootclone1", GUID: want(false).Partitions[0].GUID}, "has the GUID", nil},
	} {
		_, err := gpt.Grow(bytes.NewReader(disk), int64(len(disk)), c.change)
		if err == nil || !strings.Contains(err.Error(), c.words) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("Grow(%+v) = %v, want %q", c.change, err, c.words)
		}
	}
}

// TestGrowAgainstSfdisk has sfdisk make a disk, enlarges it, and asks sfdisk what it sees.
func TestGrowAgainstSfdisk(t *testing.T) {
	tree := toolstreetest.Open(t)
	path := filepath.Join(t.TempDir(), "disk")
	const size = 64 << 20
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	c := tree.Command("sfdisk", "-q", path)
	c.Stdin = strings.NewReader("label: gpt\nsize=4MiB, name=a\nsize=8MiB, name=b\n")
	if err := command.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	writes, err := gpt.Grow(f, size, gpt.Change{Name: "b", GUID: newGUID})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		if _, err := f.WriteAt(w.Data, w.At); err != nil {
			t.Fatal(err)
		}
	}
	verify, err := command.Output(t.Context(), tree.Command("sfdisk", "--verify", path))
	if err != nil || !strings.Contains(string(verify), "No errors detected") {
		t.Errorf("sfdisk --verify: %s, %v", verify, err)
	}
	out, err := command.Output(t.Context(), tree.Command("sfdisk", "--json", path))
	if err != nil {
		t.Fatal(err)
	}
	var seen struct {
		Table struct {
			LastLBA    int64 `json:"lastlba"`
			Partitions []struct {
				Start, Size int64
				Name, UUID  string
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatal(err)
	}
	p := seen.Table.Partitions[1]
	if want := int64(size/512 - 34); seen.Table.LastLBA != want || p.Name != "b" || !strings.EqualFold(p.UUID, newGUID) || (p.Start+p.Size)*512 != size-1<<20 {
		t.Errorf("sfdisk sees %+v, want partition b up to %d", seen, size-1<<20)
	}
}
