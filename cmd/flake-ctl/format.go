package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

var formats = []string{"table", "json", "csv"}

// format is the option --format.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	for _, known := range formats {
		if s == known {
			*f = format(s)
			return nil
		}
	}
	return fmt.Errorf("want one of %s", strings.Join(formats, ", "))
}

func (f *format) add(c *cobra.Command) {
	*f = "table"
	c.Flags().Var(f, "format", "`how` to print it: table, json, or csv without a header")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// value is a text that is not known when it is empty.
type value string

// MarshalJSON makes null of what is not known.
func (v value) MarshalJSON() ([]byte, error) {
	if v == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(v))
}

// listing is what is printed: records are structs for JSON, rows the same for people.
type listing struct {
	title, none string
	columns     []string
	records     any
	rows        [][]string
}

func (l listing) print(w io.Writer, f format) error {
	var text string
	switch f {
	case "json":
		return cli.PrintJSON(w, l.records)
	case "csv":
		for _, row := range l.rows {
			text += csvLine(row)
		}
	default:
		text = l.title + "\n\n" + l.none + "\n"
		if len(l.rows) > 0 {
			text = l.title + "\n\n" + table(append([][]string{l.columns}, l.rows...))
		}
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

// csvLine quotes what has to be, and nothing else.
func csvLine(row []string) string {
	out := make([]string, len(row))
	for i, s := range row {
		if out[i] = s; strings.ContainsAny(s, ",\"\r\n") {
			out[i] = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
		}
	}
	return strings.Join(out, ",") + "\n"
}

// table lays out rows, of which the first is the header.
func table(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(row[i])))
		}
	}
	ruler := make([]string, len(widths))
	for i, n := range widths {
		ruler[i] = strings.Repeat("-", n)
	}
	var out strings.Builder
	for n, row := range rows {
		out.WriteString(tableLine(row, widths))
		if n == 0 {
			out.WriteString(tableLine(ruler, widths))
		}
	}
	return out.String()
}

func tableLine(row []string, widths []int) string {
	out := ""
	for i, s := range row {
		s = printable(s)
		if i < len(row)-1 {
			s += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s)+2)
		}
		out += s
	}
	return out + "\n"
}

// printable keeps a table a table, and what is not known visible.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
