package main

import (
	"encoding/binary"
	"testing"
)

func TestSeries(t *testing.T) {
	var s series
	for i := range 30 {
		s.Samples = append(s.Samples, float64(30-i)) // 30 to 1
	}
	s.summarise("x")
	if s.Median != 16 || s.P95 != 29 {
		t.Errorf("1 to 30: median %v, p95 %v, want 16 and 29", s.Median, s.P95)
	}
	if c := compare("x", "MB/s", s, s); c.Ours.P95 != 2 || c.Beside.P95 != 2 {
		t.Errorf("rates of 1 to 30: 95 of 100 reach %v, %v, want 2", c.Ours.P95, c.Beside.P95)
	}
}

func TestGoals(t *testing.T) {
	c := func(unit string, ours, beside float64) flakeCase {
		return compare("x", unit, series{Median: ours, Samples: []float64{ours}}, series{Median: beside, Samples: []float64{beside}})
	}
	for _, x := range []struct {
		c    flakeCase
		want string
	}{
		{c("seconds", 1.04, 1).atMost(1.05), "met"},
		{c("seconds", 1.06, 1).atMost(1.05), "NOT MET"},
		{c("seconds", 0.319, 0.3).atMostMore(0.02), "met"},
		{c("seconds", 0.321, 0.3).atMostMore(0.02), "NOT MET"},
		{c("MB/s", 96, 100).atLeast(0.95), "met"},
		{c("MB/s", 94, 100).atLeast(0.95), "NOT MET"},
		{c("bytes", 15<<20, 1).within(15 << 20), "met"},
		{c("bytes", 16<<20, 1).within(15 << 20), "NOT MET"},
		{c("seconds", 1, 1), ""},
	} {
		if got := x.c.verdict(); got != x.want {
			t.Errorf("%+v: %q, want %q", x.c, got, x.want)
		}
	}
}

// A family is who came of its first, whoever else there is; threads start no programs but for
// the whole process.
func TestFamily(t *testing.T) {
	f := &family{members: map[uint32]bool{10: true}}
	for _, e := range [][]uint32{
		{eventFork, 10, 10, 11, 11}, {eventExec, 11, 11}, // a child
		{eventFork, 11, 11, 12, 11}, {eventFork, 12, 11, 13, 13}, {eventExec, 13, 13}, // that of its thread
		{eventFork, 20, 20, 21, 21}, {eventExec, 21, 21}, // a stranger's
		{eventExit, 12, 11}, {eventExec, 11, 11}, // the thread ends, the child goes on
		{eventExit, 11, 11}, {eventExec, 11, 11}, // its number is a stranger's now
	} {
		m := make([]byte, dataAt+16)
		binary.NativeEndian.PutUint32(m[eventAt:], e[0])
		for i, v := range e[1:] {
			binary.NativeEndian.PutUint32(m[dataAt+4*i:], v)
		}
		f.event(m)
	}
	if f.execs != 3 || len(f.members) != 2 {
		t.Errorf("%d programs, %d left, want 3 and 2", f.execs, len(f.members))
	}
	f.event(nil)
}
