package earlyboot

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const diskID = "8b0bd1c6-58a7-4a64-8d3b-6a1d1f4d9f10"

func TestSplitWords(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{" \t\n", nil},
		{"a b=c  d\n", []string{"a", "b=c", "d"}},
		{`a="b c" d`, []string{"a=b c", "d"}},
		{`"a=b c" d`, []string{"a=b c", "d"}},
		{`"" a`, []string{"", "a"}},
		{`a "open end`, []string{"a", "open end"}},
		{"a -- eos.slot=b", []string{"a"}},
		{"-- a", []string{}},
	} {
		if got := splitWords(tt.in); !slices.Equal(got, tt.want) {
			t.Errorf("splitWords(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestParseCommandLine(t *testing.T) {
	id := "eos.slot=a eos.disk=" + diskID
	std := func(change func(*CommandLine)) CommandLine {
		c := CommandLine{Slot: "a", Disk: diskID, Watchdog: 180 * time.Second, Panic: 10 * time.Second}
		if change != nil {
			change(&c)
		}
		return c
	}
	for _, tt := range []struct {
		in   string
		want CommandLine
	}{
		{id, std(nil)},
		{"eos.slot=b eos.disk=" + strings.ToUpper(diskID), std(func(c *CommandLine) { c.Slot = "b" })},
		{id + " COMMIT_UPDATE", std(func(c *CommandLine) { c.Trial = true })},
		{id + " -- COMMIT_UPDATE", std(nil)},
		{id + " XCOMMIT_UPDATE commit_update COMMIT_UPDATE=0", std(nil)},
		{id + " eos.watchdog=0 eos.panic=0", std(func(c *CommandLine) { c.Watchdog, c.Panic = 0, 0 })},
		{id + " eos.watchdog=60 eos.watchdog=30 eos.panic=1", std(func(c *CommandLine) { c.Watchdog, c.Panic = 30*time.Second, time.Second })},
		{id + " " + id, std(nil)}, // said twice, the same
		{id + " eos.watchdog=-1 eos.panic=", std(func(c *CommandLine) {
			c.Notes = []string{"eos.watchdog=-1 ignored: want 0 to 86400 seconds", "eos.panic= ignored: want 0 to 86400 seconds"}
		})},
	} {
		got, err := ParseCommandLine(tt.in)
		got.Words = nil
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("ParseCommandLine(%q) = %v, (-want +got):\n%s", tt.in, err, diff)
		}
	}
}

func TestParseCommandLineErrors(t *testing.T) {
	const from = "= is missing on the kernel command line (it comes from slot.addon.efi in the .extra.d folder beside the kernel image, or from os-update)"
	for _, tt := range []struct{ in, want string }{
		{"", "eos.slot" + from + ", and eos.disk" + from},
		{"eos.slot=a", "eos.disk" + from},
		{"eos.disk=" + diskID, "eos.slot" + from},
		{"eos.slot=c eos.disk=" + diskID, `eos.slot="c" is neither a nor b`},
		{"eos.slot= eos.disk=" + diskID, `eos.slot="" is neither a nor b`},
		{"eos.slot=a eos.disk=/dev/vda", `eos.disk="/dev/vda" is not a GUID`},
		{"eos.slot=a eos.slot=b eos.disk=" + diskID, "eos.slot= is on the kernel command line with different values: a, b"},
	} {
		got, err := ParseCommandLine(tt.in + " eos.panic=3")
		if err == nil || err.Error() != tt.want {
			t.Errorf("ParseCommandLine(%q) = %v, want %s", tt.in, err, tt.want)
		}
		if got.Panic != 3*time.Second {
			t.Errorf("ParseCommandLine(%q).Panic = %v, want 3s: the failure path needs it", tt.in, got.Panic)
		}
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add("eos.slot=a eos.disk=" + diskID + " COMMIT_UPDATE eos.panic=1")
	f.Add(`a="b c" -- d`)
	f.Add("eos.slot=\xff\x00")
	f.Fuzz(func(t *testing.T, in string) {
		c, err := ParseCommandLine(in)
		if err == nil && (c.Slot != "a" && c.Slot != "b" || !guid.MatchString(c.Disk)) {
			t.Fatalf("ParseCommandLine(%q) = slot %q, disk %q, want a slot and a GUID", in, c.Slot, c.Disk)
		}
		if c.Watchdog < 0 || c.Watchdog > maxSeconds*time.Second || c.Panic < 0 || c.Panic > maxSeconds*time.Second {
			t.Fatalf("ParseCommandLine(%q) = %v, %v, out of bounds", in, c.Watchdog, c.Panic)
		}
		// What is only split and put together again means the same.
		for _, w := range c.Words {
			if strings.ContainsAny(w, "\" \t\n") {
				return
			}
		}
		again, err2 := ParseCommandLine(strings.Join(slices.DeleteFunc(c.Words, func(w string) bool { return w == "" }), " "))
		c.Words, again.Words = nil, nil
		if diff := cmp.Diff(c, again); diff != "" || (err == nil) != (err2 == nil) {
			t.Fatalf("ParseCommandLine(%q) twice differs: %s", in, diff)
		}
	})
}
