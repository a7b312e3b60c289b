package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that was measured, and where.
type report struct {
	Machine machine  `json:"machine"`
	Figures []figure `json:"figures,omitempty"`
	Ways    []way    `json:"transfer,omitempty"`
	Flakes  *flakes  `json:"flakes,omitempty"`
}

// machine is what the figures were measured on.
type machine struct {
	Time   time.Time `json:"time"`
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Memory int64     `json:"memory_bytes"`
	Accel  string    `json:"accel"`         // of the virtual machines: kvm or tcg
	Load   string    `json:"load_at_start"` // of the last 1, 5 and 15 minutes: others were at work if it is high
	Commit string    `json:"commit,omitempty"`
}

// figure is one measured value.
type figure struct {
	Part   string    `json:"part"`
	Name   string    `json:"name"`
	Value  float64   `json:"value"`
	Unit   string    `json:"unit"`             // bytes, seconds or a thing that is counted
	Runs   int       `json:"runs,omitempty"`   // median of so many; 0: measured once
	Spread []float64 `json:"spread,omitempty"` // smallest and largest of the runs
	Beside *beside   `json:"beside,omitempty"`
}

// beside is what a user would otherwise take.
type beside struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// seconds is a figure of one run or the median of several.
func seconds(name string, runs ...time.Duration) figure {
	values := make([]float64, len(runs))
	for i, d := range runs {
		values[i] = d.Seconds()
	}
	return measured(name, "seconds", values)
}

// rate is a figure in megabytes a second, of one run or the median of several.
func rate(name string, runs ...float64) figure { return measured(name, "MB/s", runs) }

func measured(name, unit string, runs []float64) figure {
	f := figure{Name: name, Value: median(runs), Unit: unit}
	if len(runs) > 1 {
		f.Runs = len(runs)
		f.Spread = []float64{slices.Min(runs), slices.Max(runs)}
	}
	return f
}

func size(name string, bytes int64) figure {
	return figure{Name: name, Value: float64(bytes), Unit: "bytes"}
}

func count(name string, n int64, of string) figure {
	return figure{Name: name, Value: float64(n), Unit: of}
}

// with sets a figure of the same unit beside this one.
func (f figure) with(name string, other figure) figure {
	f.Beside = &beside{name, other.Value, other.Unit}
	return f
}

func median[T cmp.Ordered](runs []T) T {
	sorted := slices.Sorted(slices.Values(runs))
	return sorted[len(sorted)/2]
}

// human is a value as people read it.
func human(v float64, unit string) string {
	switch {
	case unit == "bytes" && v >= 1e6:
		return fmt.Sprintf("%.1f MB", v/1e6)
	case unit == "bytes" && v >= 1e3:
		return fmt.Sprintf("%.1f kB", v/1e3)
	case unit == "seconds" && v < 10:
		return fmt.Sprintf("%.2f s", v)
	case unit == "seconds":
		return fmt.Sprintf("%.1f s", v)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// text prints the table.
func (r *report) text(out io.Writer) error {
	m := r.Machine
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n%s, %d cores, %.0f GB; ", m.CPU, m.Cores, float64(m.Memory)/1e9)
	if m.Accel != "" {
		fmt.Fprintf(&b, "virtual machines by %s; ", m.Accel)
	}
	fmt.Fprintf(&b, "load at start %s\n%s", m.Load, m.Time.Format("2006-01-02 15:04 MST"))
	if m.Commit != "" {
		fmt.Fprintf(&b, ", commit %s", m.Commit)
	}
	fmt.Fprint(&b, "\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	last := ""
	for _, f := range r.Figures {
		part, runs, other := f.Part, "", ""
		if part == last {
			part = ""
		}
		last = f.Part
		if f.Runs > 1 {
			runs = fmt.Sprintf("median of %d, %.1f to %.1f", f.Runs, f.Spread[0], f.Spread[1])
		}
		if f.Beside != nil {
			other = f.Beside.Name + ": " + human(f.Beside.Value, f.Beside.Unit)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", part, f.Name, human(f.Value, f.Unit), other, runs)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	r.ways(&b)
	r.flakeTable(&b)
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// ways prints a table of its own: the ways to transfer an image beside each other.
func (r *report) ways(b *bytes.Buffer) {
	if len(r.Ways) == 0 {
		return
	}
	fmt.Fprint(b, "\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "transfer\tbytes\trequests\ttime\tCPU\tpeak memory")
	for _, x := range r.Ways {
		cpu, memory := "-", "-"
		if x.Memory > 0 {
			cpu, memory = human(x.CPU, "seconds"), human(float64(x.Memory), "bytes")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", x.Name, human(float64(x.Bytes), "bytes"), x.Requests, human(x.Seconds, "seconds"), cpu, memory)
	}
	_ = w.Flush() // into memory
}

// save writes the figures as JSON.
func (r *report) save(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// thisMachine describes the host.
func thisMachine() machine {
	m := machine{Time: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), CPU: runtime.GOARCH}
	field := func(file, key string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	m.CPU = cmp.Or(field("/proc/cpuinfo", "model name"), m.CPU)
	fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d kB", &m.Memory)
	m.Memory <<= 10
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if words := strings.Fields(string(text)); len(words) >= 3 {
			m.Load = strings.Join(words[:3], " ")
		}
	}
	return m
}
