package main

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for args, words := range map[string]string{
		"":                             "nothing to do",
		"--setup /dev/x --status":      "cannot be combined",
		"--wipe /dev/x --status":       "--wipe does not go with --status",
		"--yes --status":               "--yes does not go with",
		"--reseal --start":             "--reseal does not go with",
		"--discard-journal --unlock":   "does not go with",
		"--status x":                   "unexpected argument",
		"--nonsense":                   "nonsense",
		"--setup":                      "setup",
		"--status --json":              "",
		"--setup /dev/x --wipe /dev/x": "",
		"--setup /dev/x --yes":         "",
		"--activate /dev/x":            "",
		"--unlock --reseal":            "",
		"--repair --discard-journal":   "",
		"--restore-header --yes":       "",
		"--stop":                       "",
		"--recovery-key":               "",
		"--grow":                       "",
	} {
		_, err := parse(strings.Fields(args))
		if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("parse(%q) = %v, want %q", args, err, words)
		}
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse(--help) = %v", err)
	}
}

// Every option is in the help text, the man page and the completion, and none is there that is not.
func TestEveryOptionIsNamed(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(b), `\-`, "-")
	}
	texts := map[string]string{
		"help":       usage,
		"man page":   read("docs/man/flake-registry.8"),
		"completion": read("os/registry/usr/share/bash-completion/completions/flake-registry"),
	}
	option := regexp.MustCompile(`--[a-z][a-z-]+`)
	known := map[string]bool{"--help": true}
	for _, o := range option.FindAllString(usage, -1) {
		known[o] = true
		if _, err := parse([]string{o, "x"}); err != nil && strings.Contains(err.Error(), "not defined") {
			t.Errorf("the help text has %s, which there is not", o)
		}
	}
	for name, text := range texts {
		seen := map[string]bool{"--help": true}
		for _, o := range option.FindAllString(text, -1) {
			seen[o] = true
		}
		for o := range known {
			if !seen[o] {
				t.Errorf("%s lacks %s", name, o)
			}
		}
	}
}
