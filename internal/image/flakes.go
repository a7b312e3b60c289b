package image

import "github.com/OSInside/eos/internal/imagespec"

// hasFlakes tells whether a device can have flakes of its own: it takes podman, and a
// registry to register them in.
func hasFlakes(s *imagespec.Spec) bool {
	return hasPodman(s) && s.Registry.Policy != imagespec.PolicyOff
}

// loadFlakes reads the programs that it takes.
func (b *build) loadFlakes() error {
	if !hasFlakes(b.Spec) {
		return nil
	}
	for _, name := range []string{"flake-ctl", pilot} {
		var err error
		if b.in.programs["/usr/bin/"+name], err = b.program(name); err != nil {
			return err
		}
	}
	return nil
}
