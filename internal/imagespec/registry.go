package imagespec

import (
	"slices"
	"strings"
)

// registryPackages are what a device needs to make and open its registry.
var registryPackages = map[string][]string{
	PolicyNone:    {"dmsetup", "xfsprogs"},
	PolicyKeyfile: {"cryptsetup-bin", "systemd-cryptsetup", "xfsprogs"},
	PolicyTPM2: {"cryptsetup-bin", "libtss2-esys-3.0.2-0t64", "libtss2-mu-4.0.1-0t64", "libtss2-rc0t64",
		"libtss2-tcti-device0t64", "systemd-cryptsetup", "xfsprogs"},
}

// RegistryPackages returns what an image has to list for a policy.
func RegistryPackages(policy string) []string { return slices.Clone(registryPackages[policy]) }

// checkRegistry checks that the image can do what its registry asks for. A device that finds out
// at its first boot is too late.
func (d *decoder) checkRegistry(s *Spec) {
	r := s.Registry
	d.oneOf("registry.policy", r.Policy, PolicyOff, PolicyNone, PolicyTPM2, PolicyKeyfile)
	var missing []string
	for _, p := range registryPackages[r.Policy] {
		if !slices.Contains(s.Packages, p) {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		d.bad("registry.policy", "add them to packages", "%s needs the packages %s", r.Policy, strings.Join(missing, ", "))
	}
	if r.Journal && r.Policy == PolicyOff {
		d.bad("registry.journal", "choose a registry.policy", "is kept in a registry, and there is none (policy off)")
	}
}
