package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// series is all that was measured of one contender.
type series struct {
	Name    string    `json:"name"`
	Median  float64   `json:"median"`
	P95     float64   `json:"p95"` // of rates: what 95 of 100 reach
	Samples []float64 `json:"samples"`
}

// summarise names the series and fills in what follows from its samples.
func (s *series) summarise(name string) {
	sorted := slices.Sorted(slices.Values(s.Samples))
	s.Name, s.Median, s.P95 = name, median(s.Samples), sorted[(len(sorted)*95+99)/100-1]
}

// flakeCase is a flake, what is set beside it, and what was wanted.
type flakeCase struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Ours   series  `json:"ours"`
	Beside *series `json:"beside,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"` // of the medians
	Goal   string  `json:"goal,omitempty"`
	Met    *bool   `json:"met,omitempty"` // nothing: there is no goal
}

// compare sets one series beside another.
func compare(name, unit string, ours, beside series) flakeCase {
	if unit == "MB/s" {
		for _, s := range []*series{&ours, &beside} {
			sorted := slices.Sorted(slices.Values(s.Samples))
			s.P95 = sorted[len(sorted)-(len(sorted)*95+99)/100]
		}
	}
	return flakeCase{Name: name, Unit: unit, Ours: ours, Beside: &beside, Ratio: ours.Median / beside.Median}
}

func (c flakeCase) want(met bool, format string, a ...any) flakeCase {
	c.Goal, c.Met = fmt.Sprintf(format, a...), &met
	return c
}

// atMost wants no more than a part of what stands beside it.
func (c flakeCase) atMost(ratio float64) flakeCase {
	return c.want(c.Ratio <= ratio, "at most %.2f", ratio)
}

func (c flakeCase) atLeast(ratio float64) flakeCase {
	return c.want(c.Ratio >= ratio, "at least %.2f", ratio)
}

// atMostMore wants no more than what stands beside it and so much.
func (c flakeCase) atMostMore(than float64) flakeCase {
	more := c.Ours.Median - c.Beside.Median
	return c.want(more <= than, "at most %.0f ms more (%+.1f ms)", than*1e3, more*1e3)
}

// within wants no more than so many bytes.
func (c flakeCase) within(bytes float64) flakeCase {
	return c.want(c.Ours.Median <= bytes, "at most %.0f MiB", bytes/(1<<20))
}

// verdict says whether the goal is met.
func (c flakeCase) verdict() string {
	switch {
	case c.Met == nil:
		return ""
	case *c.Met:
		return "met"
	}
	return "NOT MET"
}

// exact is a value as people read it, fine enough for what is set beside each other here.
func exact(v float64, unit string) string {
	switch unit {
	case "seconds":
		return fmt.Sprintf("%.1f ms", v*1e3)
	case "bytes":
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	case "programs":
		return fmt.Sprintf("%.0f", v)
	}
	return human(v, unit)
}

// cells are a row of the table.
func (c flakeCase) cells() []string {
	out := []string{c.Name, exact(c.Ours.Median, c.Unit), exact(c.Ours.P95, c.Unit), "", "", "", "", c.Goal, c.verdict()}
	if b := c.Beside; b != nil {
		copy(out[3:], []string{b.Name, exact(b.Median, c.Unit), exact(b.P95, c.Unit), fmt.Sprintf("%.3f", c.Ratio)})
	}
	return out
}

// line is the case for those who wait.
func (c flakeCase) line() string {
	return strings.Join(slices.DeleteFunc(c.cells(), func(s string) bool { return s == "" }), ", ")
}

// flakeTable prints a table of its own.
func (r *report) flakeTable(b *bytes.Buffer) {
	f := r.Flakes
	if f == nil {
		return
	}
	fmt.Fprintf(b, "\nflakes: podman %s, %s, default log driver %s; %d rounds in turns after %d; load at end %s\n", f.Podman, f.Runtime, f.LogDriver, f.Rounds, warmUp, f.LoadAfter)
	fmt.Fprintf(b, "%s are replayed without sudo and without its launcher\n\n", theOriginal)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "flake\tmedian\tp95\tbeside it\tmedian\tp95\tratio\tgoal\t")
	last := ""
	for _, c := range f.Cases {
		cells := c.cells()
		if ours := strings.Join(cells[:3], "\t"); ours == last {
			cells[0], cells[1], cells[2] = "", "", ""
		} else {
			last = ours
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into memory
}
