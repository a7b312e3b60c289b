package inspect

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/OSInside/eos/internal/bootstate"
)

// Text writes the report for people. What came from outside is quoted or of
// harmless signs, a terminal is not at the mercy of an image.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s\n", r.Path, r.Kind, bytesText(r.Size))
	if r.Table != nil {
		r.tableText(&b)
	}
	if r.Boot != nil {
		r.Boot.text(&b)
	}
	for i := range r.Slots {
		r.Slots[i].text(&b)
	}
	if r.Registry != "" {
		fmt.Fprintf(&b, "\nregistry\n  %s\n", r.Registry)
	}
	switch n := len(r.Problems); {
	case n == 0 && r.Full:
		b.WriteString("\nno problems found\n")
	case n == 0:
		b.WriteString("\nno problems found; data was not compared with the hash trees (--full does)\n")
	default:
		fmt.Fprintf(&b, "\n%s:\n", plural(n, "problem"))
		for _, p := range r.Problems {
			fmt.Fprintf(&b, "  %s\n", p)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) tableText(b *strings.Builder) {
	fmt.Fprintf(b, "disk GUID %s, sectors of %d bytes\n\npartitions\n", r.Table.DiskGUID, r.Table.SectorSize)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, p := range r.Table.Partitions {
		fmt.Fprintf(t, "  %d\t%s\t%s\tat %s\t%s\n", p.Number, harmless(p.Name), bytesText(p.Size), bytesText(p.Start), p.GUID)
	}
	t.Flush()
}

// reasons say why the boot loader chooses what it does.
var reasons = map[bootstate.Reason]string{
	bootstate.ReasonTrial:      "its trial, once",
	bootstate.ReasonGood:       "the default, and proved",
	bootstate.ReasonTries:      "not proved yet, this start is counted",
	bootstate.ReasonFallback:   "the default has no tries left or no kernel image that can be started",
	bootstate.ReasonLastResort: "no slot has tries left",
	bootstate.ReasonUnreadable: "the boot state cannot be read",
	bootstate.ReasonNothing:    "no slot can be started",
}

func (o *Boot) text(b *strings.Builder) {
	b.WriteString("\nboot\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(b, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	next := "nothing"
	if o.Next != bootstate.None {
		next = "slot " + string(o.Next)
	}
	row("next", "%s (%s)", next, reasons[o.Reason])
	if s := o.State; s == nil {
		row("state", "cannot be read: %s", o.StateError)
	} else {
		row("default", "slot %s", s.Default)
		if s.Booted != bootstate.None {
			row("started", "slot %s was the last one", s.Booted)
		}
		row("slot a", "%s", stateText(s.A))
		row("slot b", "%s", stateText(s.B))
	}
	if o.Record == nil {
		row("record", "cannot be read: %s", o.RecordError)
		return
	}
	if l := o.Record.Last; l.Op != "" {
		text := fmt.Sprintf("%s %s", harmless(l.Op), harmless(l.Outcome))
		if l.Version != "" {
			text += ", version " + harmless(l.Version)
		}
		if l.Reason != "" {
			text += ": " + harmless(l.Reason)
		}
		row("last done", "%s, %s", timeText(l.Time), text)
	}
	for _, f := range o.Record.Failed {
		row("failed", "%s, version %s: %s", timeText(f.Time), harmless(f.Version), harmless(f.Reason))
	}
}

func stateText(s bootstate.SlotState) string {
	if s.Status != bootstate.Committed {
		return string(s.Status)
	}
	if s.Good {
		return "committed, proved"
	}
	return "committed, not proved, " + plural(s.Tries, "counted start") + " left"
}

func (s *Slot) text(b *strings.Builder) {
	if s.Slot != bootstate.None {
		fmt.Fprintf(b, "\nslot %s (partition %d, %s)\n", s.Slot, s.Partition, bytesText(s.Size))
	} else {
		b.WriteString("\nimage\n")
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(b, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	if m := s.Manifest; m != nil {
		row("holds", "%s %s for %s, %s", m.Name, m.Version, m.Class, m.Arch)
		row("build", "%s, %s", m.BuildID, timeText(m.Built))
		row("size", "%s, of which filesystem %s (%s)", bytesText(m.ImageSize), bytesText(m.DataSize), packedText(m.Compressor, m.SquashfsLevel))
		row("root hash", "%s", m.RootHash)
		row("signature", "%s", s.Signature.text("right"))
		for _, k := range s.Signers {
			switch {
			case k.Name != "":
				row("", "by %s, %s", k.ID, harmless(k.Name))
			case s.Signature.Verdict == Unchecked:
				row("", "by %s", k.ID)
			default:
				row("", "by %s, not an accepted key", k.ID)
			}
		}
		row("hash tree", "%s", s.HashTree.text("every block is right"))
	} else {
		row("holds", "no image: %s", s.Signature.Why)
	}
	if s.Slot != bootstate.None {
		row("kernel", "%s", s.Kernel.text("checksum is right"))
	}
}

func (c Check) text(good string) string {
	switch {
	case c.Verdict == Good:
		return good
	case c.Verdict == Unchecked && c.Why == "":
		return "not compared"
	case c.Verdict == Unchecked:
		return "not compared, " + c.Why
	case c.Why == "":
		return "none"
	case c.Verdict == Absent:
		return "none: " + c.Why
	default:
		return "WRONG: " + c.Why
	}
}

func packedText(compressor string, level int) string {
	if level == 0 {
		return compressor
	}
	return fmt.Sprintf("%s, level %d", compressor, level)
}

// harmless returns s as it is if it is plain, and quoted otherwise.
func harmless(s string) string {
	if q := strconv.QuoteToGraphic(s); s == "" || q != `"`+s+`"` {
		return q
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func timeText(seconds int64) string {
	if seconds == 0 {
		return "at an unknown time"
	}
	return time.Unix(seconds, 0).UTC().Format("2006-01-02 15:04:05 MST")
}
