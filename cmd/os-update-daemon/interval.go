package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// defaultInterval is how often origins are asked where nothing else is said.
const defaultInterval = time.Hour

// maxInterval bounds it: more is a mistake.
const maxInterval = 366 * 24 * time.Hour

var intervalText = regexp.MustCompile(`^([0-9]{1,9})(s|min|m|h|d)?$`)

// parseInterval reads a whole number with an optional unit; without one it is seconds.
func parseInterval(s string) (time.Duration, error) {
	m := intervalText.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q: want a whole number of s, min, h or d, as 90min", s)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, err // the expression lets none through
	}
	unit := map[string]time.Duration{
		"": time.Second, "s": time.Second, "m": time.Minute, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[m[2]]
	if n == 0 || int64(n) > int64(maxInterval/unit) {
		return 0, fmt.Errorf("%q: want 1s to 366d", s)
	}
	return time.Duration(n) * unit, nil
}

// loadInterval reads OS_CHECK_INTERVAL from a file as systemd's EnvironmentFile is. The last one
// counts, as there.
func loadInterval(file string) (time.Duration, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultInterval, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read settings: %w", err)
	}
	interval, number := defaultInterval, 0
	for line := range strings.Lines(string(b)) {
		number++
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "OS_CHECK_INTERVAL=")
		if !ok {
			continue
		}
		if q := value; len(q) >= 2 && (q[0] == '"' || q[0] == '\'') && q[len(q)-1] == q[0] {
			value = q[1 : len(q)-1]
		}
		if interval, err = parseInterval(value); err != nil {
			return 0, fmt.Errorf("%s:%d: OS_CHECK_INTERVAL %w", file, number, err)
		}
	}
	return interval, nil
}
