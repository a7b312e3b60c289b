package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64
		bad  bool
	}{
		{"", 0, false}, {"0", 0, false}, {"1024M", 1 << 30, false}, {"8G", 8 << 30, false}, {"2g", 2 << 30, false},
		{"512MiB", 512 << 20, false}, {"1048576", 1 << 20, false}, {"1GB", 1e9, false}, {"1.5G", 3 << 29, false},
		{"G", 0, true}, {"-1G", 0, true}, {"1X", 0, true}, {"99999999T", 0, true}, {"1G ", 0, true},
	} {
		got, err := parseSize(tt.text)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("parseSize(%q) = %d, %v, want %d, an error: %v", tt.text, got, err, tt.want, tt.bad)
		}
	}
}

func TestNewestImage(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for i, name := range []string{"b.raw", "c.raw", "a.raw", "newer.qcow2"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := newestImage(dir); err != nil || filepath.Base(got) != "a.raw" {
		t.Errorf("newestImage = %q, %v, want a.raw", got, err)
	}
	if _, err := newestImage(t.TempDir()); err == nil {
		t.Error("newestImage of an empty folder succeeded")
	}
}
