package imagespec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Problem is one fault in a description.
type Problem struct {
	File string
	Line int
	Key  string // like disk.esp or files[2].path; empty for faults of the YAML itself
	What string
	Fix  string // what to do about it; may be empty
}

// Error returns "file:line: key: what".
func (p *Problem) Error() string {
	if p.Key == "" {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What)
	}
	return fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Key, p.What)
}

// Hint returns what to do about it; package cli prints it.
func (p *Problem) Hint() string { return p.Fix }

// Problems returns all the problems in an error of [Load] or [Parse], in order.
func Problems(err error) []*Problem {
	var all []*Problem
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, Problems(e)...)
		}
		return all
	}
	var p *Problem
	if errors.As(err, &p) {
		all = append(all, p)
	}
	return all
}

// join sorts problems by line and makes them one error.
func join(problems []*Problem) error {
	slices.SortStableFunc(problems, func(a, b *Problem) int { return cmp.Compare(a.Line, b.Line) })
	var errs []error
	for _, p := range problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// closest returns the one of words that word is most likely a misspelling of, or "".
func closest(word string, words []string) string {
	best, bestDist := "", 3
	for _, w := range words {
		if d := distance(word, w); d < bestDist && d < len(w) {
			best, bestDist = w, d
		}
	}
	return best
}

// distance is the number of single letters to change, insert or delete.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diag
			if a[i] != b[j] {
				change++
			}
			diag = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
