package image

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/registry"
)

const registryDescription = `name: eos
class: generic-x86_64
version: 1.0.0
packages: [systemd, dmsetup, xfsprogs, cryptsetup-bin, systemd-cryptsetup, libtss2-esys-3.0.2-0t64, libtss2-mu-4.0.1-0t64, libtss2-rc0t64, libtss2-tcti-device0t64]
registry: {policy: %s, journal: %v}
`

// What the build writes is what the program on the device reads, and the units of a registry start where
// there is one, and nowhere else.
func TestRegistry(t *testing.T) {
	for _, policy := range []string{imagespec.PolicyTPM2, imagespec.PolicyKeyfile, imagespec.PolicyNone, imagespec.PolicyOff} {
		on, journal := policy != imagespec.PolicyOff, policy == imagespec.PolicyTPM2
		tr, err := composed(t, fmt.Sprintf(registryDescription, policy, journal), imagespec.ProfileAB)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		text, err := tr.read(registry.ConfigFile)
		if (err == nil) != on {
			t.Errorf("%s: %s: %v", policy, registry.ConfigFile, err)
		}
		if on {
			if err := os.WriteFile(dir+"/registry.json", text, 0o644); err != nil {
				t.Fatal(err)
			}
			if c, err := registry.LoadConfig(dir + "/registry.json"); err != nil || c.Policy != policy || c.Journal != journal {
				t.Errorf("%s: LoadConfig = %+v, %v", policy, c, err)
			}
		}
		for unit, want := range map[string]bool{
			"multi-user.target.wants/registry-rw.service":            on,
			"multi-user.target.wants/registry-resize.service":        on,
			"multi-user.target.wants/registry-network.service":       on,
			"boot-complete.target.requires/registry-confirm.service": on,
			"multi-user.target.wants/registry-journal.service":       journal,
		} {
			if got := tr.get(localDir+"/"+unit) != nil; got != want {
				t.Errorf("%s: %s is enabled: %v, want %v", policy, unit, got, want)
			}
		}
		for path, target := range map[string]string{
			"/usr/share/flakes":              "../../var/lib/flakes",
			"/usr/local/lib/systemd/network": "/var/lib/eos/network",
		} {
			if n := tr.get(path); on && (n == nil || n.link != target) {
				t.Errorf("%s: %s = %+v, want a link to %s", policy, path, n, target)
			}
		}
	}
}

// A policy that does not keep a disk from who holds it is never chosen without a word.
func TestRegistryWarning(t *testing.T) {
	for policy, words := range map[string]string{
		imagespec.PolicyKeyfile: "not a disk that is lost or stolen",
		imagespec.PolicyNone:    "not encrypted",
		imagespec.PolicyTPM2:    "",
		imagespec.PolicyOff:     "",
	} {
		n := &notes{Progress: cli.NoProgress()}
		warnRegistry(n, &imagespec.Spec{Registry: imagespec.Registry{Policy: policy}})
		got := n.text
		if (got == "") != (words == "") || !strings.Contains(got, words) {
			t.Errorf("policy %s: %q, want %q", policy, got, words)
		}
	}
}
