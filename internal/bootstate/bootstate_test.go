package bootstate_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/google/go-cmp/cmp"
)

// slotStates lists every state a slot can have in the block.
func slotStates() []bootstate.SlotState {
	var all []bootstate.SlotState
	for _, status := range bootstate.Statuses {
		for tries := 0; tries <= bootstate.Tries; tries++ {
			all = append(all,
				bootstate.SlotState{Status: status, Tries: tries},
				bootstate.SlotState{Status: status, Tries: tries, Good: true})
		}
	}
	return all
}

// every calls f with every state there is.
func every(f func(bootstate.State)) {
	slots := []bootstate.Slot{bootstate.A, bootstate.B}
	maybe := append([]bootstate.Slot{bootstate.None}, slots...)
	for _, def := range slots {
		for _, once := range maybe {
			for _, booted := range maybe {
				for _, a := range slotStates() {
					for _, b := range slotStates() {
						f(bootstate.State{Default: def, Once: once, Booted: booted, A: a, B: b})
					}
				}
			}
		}
	}
}

func TestBlockRoundTripAndSize(t *testing.T) {
	n, longest := 0, 0
	every(func(s bootstate.State) {
		n++
		b := s.Marshal()
		if len(b) != bootstate.BlockSize {
			t.Fatalf("Marshal(%+v) has %d bytes, want %d", s, len(b), bootstate.BlockSize)
		}
		longest = max(longest, bytes.LastIndexByte(b, '\n')+1)
		got, err := bootstate.Parse(b)
		if err != nil || got != s {
			t.Fatalf("Parse(Marshal(%+v)) = %+v, %v", s, got, err)
		}
	})
	if want := 2 * 3 * 3 * 40 * 40; n != want {
		t.Errorf("%d states tested, want %d", n, want)
	}
	// One sector is the atom of a write.
	if longest > 512 {
		t.Errorf("variables take up to %d bytes, want at most 512", longest)
	}
}

func TestMarshalGolden(t *testing.T) {
	s := bootstate.Factory()
	s.Once, s.Booted, s.B = bootstate.B, bootstate.A, bootstate.SlotState{Status: bootstate.Trial}
	want := "# GRUB Environment Block\n" +
		"default=a\nonce=b\nbooted=a\n" +
		"a_status=committed\na_tries=3\na_good=0\n" +
		"b_status=trial\nb_tries=0\nb_good=0\n"
	want += strings.Repeat("#", 1024-len(want))
	if d := cmp.Diff(want, string(s.Marshal())); d != "" {
		t.Errorf("Marshal (-want +got):\n%s", d)
	}
}

func TestMarshalRefusesNonsense(t *testing.T) {
	good := bootstate.Factory()
	for name, change := range map[string]func(*bootstate.State){
		"default":     func(s *bootstate.State) { s.Default = "c" },
		"no default":  func(s *bootstate.State) { s.Default = "" },
		"once":        func(s *bootstate.State) { s.Once = "-" },
		"booted":      func(s *bootstate.State) { s.Booted = "x" },
		"status":      func(s *bootstate.State) { s.A.Status = "fine\nb_status=committed" },
		"tries":       func(s *bootstate.State) { s.B.Tries = 4 },
		"minus tries": func(s *bootstate.State) { s.B.Tries = -1 },
	} {
		s := good
		change(&s)
		if s.Check() == nil {
			t.Errorf("%s: Check() = nil, want an error", name)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: Marshal does not panic", name)
				}
			}()
			s.Marshal()
		}()
	}
}

func TestParseErrors(t *testing.T) {
	good := string(bootstate.Factory().Marshal())
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the block", old)
		}
		b := strings.Replace(good, old, new, 1)
		if len(b) > 1024 {
			return b[:1024]
		}
		return b + strings.Repeat("#", 1024-len(b))
	}
	for _, c := range []struct{ name, block, want string }{
		{"empty", "", "0 bytes, want 1024"},
		{"short", good[:1023], "1023 bytes"},
		{"long", good + "#", "1025 bytes"},
		{"zeros", strings.Repeat("\x00", 1024), "no GRUB environment block header"},
		{"header", edit("# GRUB", "# grub"), "no GRUB environment block header"},
		{"no default", edit("default=a\n", ""), `"once" is repeated or out of order`},
		{"order", edit("default=a\nonce=-\n", "once=-\ndefault=a\n"), "out of order"},
		{"repeated", edit("once=-\n", "once=-\nonce=-\n"), `"once" is repeated`},
		{"unknown", edit("once=-\n", "once=-\nfoo=1\nbar=2\n"), `unknown variables "foo", "bar"`},
		{"missing last", edit("b_good=0\n", ""), `"b_good" is missing`},
		{"no value", edit("once=-\n", "once\n"), `broken line "once"`},
		{"no newline", strings.Replace(good, "b_good=0\n#", "b_good=0##", 1), `broken line "b_good=0##`},
		{"padding", good[:1000] + "x" + good[1001:], "padding"},
		{"comment", edit("once=-\n", "# hello\nonce=-\n"), "missing"},
		{"default", edit("default=a", "default=c"), `default has the value "c"`},
		{"default none", edit("default=a", "default=-"), `default has the value "-"`},
		{"once", edit("once=-", "once=c"), `once has the value "c"`},
		{"booted", edit("booted=-", "booted="), `booted has the value ""`},
		{"status", edit("a_status=committed", "a_status=good"), `a_status has the value "good"`},
		{"tries", edit("a_tries=3", "a_tries=4"), `a_tries has the value "4"`},
		{"two digits", edit("a_tries=3", "a_tries=03"), `a_tries has the value "03"`},
		{"good", edit("b_good=0", "b_good=2"), `b_good has the value "2"`},
	} {
		s, err := bootstate.Parse([]byte(c.block))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Parse = %+v, %v, want an error with %q", c.name, s, err, c.want)
		}
		if err != nil && strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("%s: error has more than one line: %q", c.name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(bootstate.Factory().Marshal())
	s := bootstate.Factory()
	s.Once, s.Booted = bootstate.B, bootstate.A
	for _, st := range bootstate.Statuses {
		s.B.Status = st
		f.Add(s.Marshal())
	}
	f.Add(bytes.Repeat([]byte("#"), 1024))
	f.Add([]byte("# GRUB Environment Block\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := bootstate.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Marshal(), b) {
			t.Errorf("Parse accepts what Marshal(%+v) does not write: %q", s, b)
		}
	})
}

func stateFile(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bootstate")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWriteFile(t *testing.T) {
	path := stateFile(t, bootstate.Factory().Marshal())
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want := bootstate.Factory()
	want.Once, want.B.Status = bootstate.B, bootstate.Trial
	if err := bootstate.WriteFile(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := bootstate.ReadFile(path)
	if err != nil || got != want {
		t.Errorf("ReadFile = %+v, %v, want %+v", got, err, want)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("WriteFile replaced the file, want it overwritten in place")
	}
	// Damage anywhere, also behind the first sector, is healed.
	for _, at := range []int{0, 30, 511, 512, 1023} {
		b := want.Marshal()
		b[at] ^= 0x40
		path := stateFile(t, b)
		if _, err := bootstate.ReadFile(path); err == nil {
			t.Errorf("byte %d damaged: ReadFile succeeds", at)
		}
		if err := bootstate.WriteFile(path, want); err != nil {
			t.Errorf("byte %d damaged: WriteFile: %v", at, err)
		}
		if got, err := bootstate.ReadFile(path); err != nil || got != want {
			t.Errorf("byte %d damaged and written: ReadFile = %+v, %v", at, got, err)
		}
	}
}

func TestWriteFileRefuses(t *testing.T) {
	short := stateFile(t, make([]byte, 512))
	if err := bootstate.WriteFile(short, bootstate.Factory()); err == nil || !strings.Contains(err.Error(), "512 bytes, want 1024") {
		t.Errorf("WriteFile to a file of 512 bytes = %v, want an error with its size", err)
	}
	missing := filepath.Join(t.TempDir(), "bootstate")
	if err := bootstate.WriteFile(missing, bootstate.Factory()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WriteFile to a missing file = %v, want not exist", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("WriteFile created the file")
	}
	ok := stateFile(t, bootstate.Factory().Marshal())
	if err := bootstate.WriteFile(ok, bootstate.State{}); err == nil {
		t.Error("WriteFile of the zero state succeeds")
	}
	if _, err := bootstate.ReadFile(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a missing file = %v, want not exist", err)
	}
}

func TestParseSlot(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "b": true, "": false, "A": false, "c": false, "-": false} {
		x, err := bootstate.ParseSlot(name)
		if (err == nil) != ok || ok && string(x) != name {
			t.Errorf("ParseSlot(%q) = %q, %v", name, x, err)
		}
	}
}
