package imagespec

import (
	"path/filepath"
	"strings"
)

// FleetKey is where a device with the flake fleet finds its key for updates.
const FleetKey = "/run/id_fleet"

// Fleet is how a device gets the key by which it fetches updates over ssh. With either, the
// image has the container and the command fleet.
type Fleet struct {
	// Key is the private key that all devices with this image share, seen from the folder of
	// the description. Where it lies is nobody's business.
	Key    string `yaml:"key" json:"-"`
	Enroll bool   `yaml:"enroll"` // devices make a key of their own

	Sum string `yaml:"-"` // SHA-256 of Key's content, set by Load
}

// On tells whether the image has the command fleet.
func (f Fleet) On() bool { return f.Key != "" || f.Enroll }

// FleetKeyPath returns where the shared private key is; empty if there is none.
func (s *Spec) FleetKeyPath() string {
	if s.Fleet.Key == "" || filepath.IsAbs(s.Fleet.Key) {
		return s.Fleet.Key
	}
	return beside(s.File, s.Fleet.Key)
}

// loadFleet sets the sum of the key that all devices share.
func (d *decoder) loadFleet(s *Spec) {
	path := s.FleetKeyPath()
	if path == "" {
		return
	}
	var err error
	if s.Fleet.Sum, err = hashFile(path); err != nil {
		d.problem(d.line("fleet.key"), "fleet.key", "it is seen from the folder of the image description", "%v", err)
	}
}

// checkFleet checks that the image can do what it is asked for.
func (d *decoder) checkFleet(s *Spec) {
	f := s.Fleet
	if d.set("fleet.key") && f.Key != "" && strings.ContainsFunc(f.Key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		d.bad("fleet.key", "want the path of a private key file", "has a control character in it")
	}
	if !f.On() {
		return
	}
	d.checkFlakePackages(s, "fleet")
	if f.Enroll && s.Registry.Policy == PolicyOff {
		d.bad("fleet.enroll", "choose a registry.policy", "needs a registry to keep the device's own key in, and there is none (policy off)")
	}
}
