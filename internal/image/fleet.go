package image

import (
	"errors"
	"fmt"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/fleet"
	"github.com/OSInside/eos/internal/fleet/fleetimage"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/imagestore"
	osfiles "github.com/OSInside/eos/os"
)

// pilot is the program behind the commands of flakes.
const pilot = "podman-pilot"

// afterRegistry orders the units that ask for updates after the registry, which may have the
// device's own key. They do not need it.
const afterRegistry = "[Unit]\nAfter=registry-rw.service\n"

// loadFleet reads what the flake fleet is made of, before the long work begins.
func (b *build) loadFleet() error {
	if !b.Spec.Fleet.On() {
		return nil
	}
	var err error
	if b.in.programs["/usr/bin/"+pilot], err = b.program(pilot); err != nil {
		return err
	}
	if b.fleet.program, err = b.program(fleetimage.Flake); err != nil {
		return err
	}
	path := b.Spec.FleetKeyPath()
	if path == "" {
		return nil
	}
	if b.fleet.key, err = fleet.LoadKey(path); err != nil {
		hint := "make one with: ssh-keygen -t ed25519 -N '' -f FILE"
		if errors.Is(err, fleet.ErrPassphrase) {
			hint = "take the passphrase away with: ssh-keygen -p -f FILE; a device has nobody to ask"
		}
		return cli.Refuse(cli.Failure, fmt.Errorf("read fleet.key: %w", err), hint)
	}
	b.Progress.Note("fleet.key %s: every device with this image has this private key, and so has whoever gets the image, a file of this build or of its cache",
		b.fleet.key.Fingerprint())
	return nil
}

// fleetParts are what the container of fleet is made of.
type fleetParts struct {
	program []byte
	key     *fleet.Key // nil: devices have only their own
}

// layFleet makes the command fleet.
func (t *tree) layFleet(s *imagespec.Spec) error {
	text, err := fleetimage.Registration(t.get(fleetimage.Authorities) != nil)
	if err != nil {
		return err
	}
	registration, command := flake.ShippedDir+"/"+fleetimage.Flake+".yaml", "/usr/bin/"+fleetimage.Flake
	for _, p := range []string{registration, command} {
		if t.get(p) != nil {
			return taken(fleetimage.Flake, p)
		}
	}
	t.write(registration, 0o644, text)
	t.symlink(command, pilot)
	if err := t.lay(osfiles.Fleet()); err != nil {
		return err
	}
	if s.Registry.Policy == imagespec.PolicyOff {
		return nil
	}
	for _, unit := range []string{"os-update.service", "os-update-confirm.service"} {
		t.write(unitDir+"/"+unit+".d/20-fleet.conf", 0o644, []byte(afterRegistry))
	}
	return nil
}

// addFleet lays the flake fleet into the root and returns its container image.
func (b *build) addFleet(t *tree) ([]imagestore.Image, error) {
	if !b.Spec.Fleet.On() {
		return nil, nil
	}
	if err := t.layFleet(b.Spec); err != nil {
		return nil, err
	}
	img, err := fleetimage.Image(b.Spec.Arch, b.fleet.program, b.fleet.key)
	if err != nil {
		return nil, err
	}
	return []imagestore.Image{{Names: []string{fleetimage.Name}, Image: img}}, nil
}
