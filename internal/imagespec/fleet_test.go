package imagespec_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/imagespec"
)

const fleetBase = "name: a\nclass: b\nversion: 1\npackages: [podman, tini, xfsprogs, dmsetup]\nregistry: {policy: none}\n"

func TestFleet(t *testing.T) {
	for _, c := range []struct {
		text string
		on   bool
		pkey string
	}{
		{"", false, ""},
		{"fleet: {enroll: false}\n", false, ""},
		{"fleet: {enroll: true}\n", true, "/run/id_fleet"},
		{"fleet: {key: id_fleet}\n", true, "/run/id_fleet"},
		{"fleet: {key: id_fleet, enroll: true}\nupdate: {pkey: /etc/own}\n", true, "/etc/own"},
	} {
		s := parse(t, fleetBase+c.text, "")
		if s.Fleet.On() != c.on || s.Update.PKey != c.pkey {
			t.Errorf("%q: fleet %v, update.pkey %q, want %v, %q", c.text, s.Fleet.On(), s.Update.PKey, c.on, c.pkey)
		}
	}
	for _, c := range []struct{ text, want string }{
		{strings.Replace(fleetBase, "podman, ", "", 1) + "fleet: {enroll: true}\n", "d.yaml:6: fleet: needs the packages podman"},
		{strings.Replace(fleetBase, "tini, ", "", 1) + "fleet: {enroll: true}\n", "d.yaml:6: fleet: needs the packages tini"},
		{strings.Replace(fleetBase, "policy: none", "policy: off", 1) + "fleet: {enroll: true}\n", "d.yaml:6: fleet.enroll: needs a registry"},
		{fleetBase + "fleet: {key: \"a\\nb\"}\n", "fleet.key: has a control character"},
		{fleetBase + "fleet: {kye: x}\n", "did you mean key?"},
	} {
		if _, err := imagespec.Parse("d.yaml", []byte(c.text), ""); err == nil || !strings.Contains(problems(err), c.want) {
			t.Errorf("Parse(%q) = %v, want %q", c.text, err, c.want)
		}
	}
}

// problems is the text of an error with its hints.
func problems(err error) string {
	text := err.Error()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if h, ok := e.(interface{ Hint() string }); ok {
				text += " " + h.Hint()
			}
		}
	}
	return text
}

// The content of the key is part of what an image depends on, its place is not.
func TestFleetKey(t *testing.T) {
	dir := t.TempDir()
	load := func(key, content string) (*imagespec.Spec, error) {
		t.Helper()
		file := filepath.Join(dir, "d.yaml")
		if err := os.WriteFile(file, []byte(fleetBase+"fleet: {key: "+key+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			if err := os.WriteFile(filepath.Join(dir, "id_a"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return imagespec.Load(file, "")
	}
	if _, err := load("id_a", ""); err == nil || !strings.Contains(err.Error(), "d.yaml:6: fleet.key: ") {
		t.Errorf("Load without the key = %v", err)
	}
	relative, err := load("id_a", "one")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := relative.FleetKeyPath(), filepath.Join(dir, "id_a"); got != want {
		t.Errorf("FleetKeyPath = %s, want %s", got, want)
	}
	absolute, err := load(filepath.Join(dir, "id_a"), "one")
	if err != nil || absolute.FleetKeyPath() != relative.FleetKeyPath() || absolute.Digest() != relative.Digest() {
		t.Errorf("the key by its absolute path: %v, digest %s, want %s", err, absolute.Digest(), relative.Digest())
	}
	other, err := load("id_a", "two")
	if err != nil || other.Digest() == relative.Digest() {
		t.Errorf("another key: %v, the same digest", err)
	}
}
