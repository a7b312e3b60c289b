package flake_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/flake"
)

func TestParseConfig(t *testing.T) {
	const text = "---\ngeneric:\n  flakes_dir: /home/me/.config/flakes\n  podman_ids_dir: /tmp/flakes\n" +
		"  firecracker_ids_dir: /tmp/flakes\n  podman_storage_conf: /home/me/storage.conf\n"
	want := flake.Config{Dir: "/home/me/.config/flakes", StorageConf: "/home/me/storage.conf"}
	if got, err := flake.ParseConfig("f", []byte(text), true); err != nil || !cmp.Equal(got, want) {
		t.Errorf("ParseConfig = %+v, %v, want %+v", got, err, want)
	}
	for text, want := range map[string]string{
		"":                              "f:1: generic: is missing",
		"generic:\n":                    "f:1: generic: is missing",
		"generic:\n  flakes_dir: /x\n":  "f:2: generic.podman_storage_conf: is missing",
		"generic:\n  a: /x\n":           "f:2: generic.a: unknown key",
		"generic: {flakes_dir: [], x: ": "f:1: ",
	} {
		if got, err := flake.ParseConfig("f", []byte(text), true); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("ParseConfig(%q) = %+v, %v, want %q", text, got, err, want)
		}
	}
}
