package head_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/OSInside/eos/internal/registry/head"
)

const disk = "11223344-5566-5788-99aa-bbccddeeff00"

func at(off int, b string) []byte {
	out := make([]byte, head.Room)
	copy(out[off:], b)
	return out
}

func TestClassify(t *testing.T) {
	mark := append(head.Mark(disk), make([]byte, head.Room-512)...)
	marked := func(change func([]byte)) []byte {
		b := bytes.Clone(mark)
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		head []byte
		want head.Kind
	}{
		"the builder's mark":         {mark, head.Blank},
		"with other data behind it":  {marked(func(b []byte) { b[600] = 1 }), head.Blank},
		"with one bit of it flipped": {marked(func(b []byte) { b[3] ^= 4 }), head.Unknown},
		"with a bit in its zeros":    {marked(func(b []byte) { b[511] = 1 }), head.Unknown},
		"the mark of another disk":   {append(head.Mark("x"), make([]byte, head.Room-512)...), head.Unknown},
		"LUKS2":                      {at(0, "LUKS\xba\xbe\x00\x02"), head.LUKS},
		"LUKS1":                      {at(0, "LUKS\xba\xbe\x00\x01"), head.Unknown},
		"LUKS2 without first header": {at(0x4000, "SKUL\xba\xbe\x00\x02"), head.LUKS},
		"XFS":                        {at(0, "XFSB"), head.Plain},
		"zeros":                      {at(0, ""), head.Empty},
		"ext4":                       {at(1080, "\x53\xef"), head.Unknown},
		"too short":                  {[]byte("EOS"), head.Unknown},
		"nothing":                    {nil, head.Unknown},
	} {
		if got := head.Classify(c.head, disk); got != c.want {
			t.Errorf("%s is %v, want %v", name, got, c.want)
		}
	}
}

func TestMachineID(t *testing.T) {
	for guid, want := range map[string]string{
		"11223344-5566-4788-99aa-bbccddeeff00": "112233445566478899aabbccddeeff00",
		disk:                                   "", // the builder's
		"":                                     "",
	} {
		if got := head.MachineID(guid); got != want {
			t.Errorf("MachineID(%s) = %q, want %q", guid, got, want)
		}
	}
}

func TestCopy(t *testing.T) {
	content := bytes.Repeat([]byte("header"), head.Size/6+1)[:head.Size]
	kept := head.MarshalCopy(content)
	got, err := head.ParseCopy(kept)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("ParseCopy: %v", err)
	}
	if _, err := head.ParseCopy(make([]byte, len(kept))); !errors.Is(err, head.ErrNoCopy) {
		t.Errorf("ParseCopy of zeros: %v, want ErrNoCopy", err)
	}
	for _, off := range []int{0, 30, 4096, len(kept) - 1} {
		bad := bytes.Clone(kept)
		bad[off] ^= 1
		if _, err := head.ParseCopy(bad); err == nil || errors.Is(err, head.ErrNoCopy) {
			t.Errorf("ParseCopy with a bit flipped at %d: %v, want it damaged", off, err)
		}
	}
	if _, err := head.ParseCopy(kept[:5000]); err == nil {
		t.Error("ParseCopy of a short copy: no error")
	}
}

func TestOutdated(t *testing.T) {
	header := func(change, slot byte) []byte {
		b := make([]byte, head.Size)
		copy(b, "LUKS\xba\xbe\x00\x02")
		b[23], b[40000] = change, slot
		return b
	}
	zeros := make([]byte, head.Size)
	for name, c := range map[string]struct {
		header, kept      []byte
		outdated, damaged bool
	}{
		"the same":                      {header(3, 1), header(3, 1), false, false},
		"a slot was added":              {header(4, 2), header(3, 1), true, false},
		"a slot has other bytes":        {header(3, 2), header(3, 1), false, true},
		"an older header came back":     {header(2, 0), header(3, 1), false, true},
		"the first header is gone":      {zeros, header(3, 1), false, true},
		"the copy is that of no header": {header(3, 1), zeros, true, false},
	} {
		if o, d := head.Outdated(c.header, c.kept); o != c.outdated || d != c.damaged {
			t.Errorf("%s: outdated %v, damaged %v, want %v, %v", name, o, d, c.outdated, c.damaged)
		}
	}
}

// FuzzClassify: only the exact mark is blank, whatever lies on a disk.
func FuzzClassify(f *testing.F) {
	f.Add(head.Mark(disk))
	f.Add(at(0, "LUKS\xba\xbe\x00\x02"))
	f.Add(at(0x4000, "SKUL\xba\xbe\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		blank := len(b) >= 512 && bytes.Equal(b[:512], head.Mark(disk))
		if got := head.Classify(b, disk); (got == head.Blank) != blank {
			t.Errorf("Classify = %v, is the mark: %v", got, blank)
		}
	})
}
