package image

import (
	"fmt"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
	"github.com/OSInside/eos/internal/flake/unit"
	"github.com/OSInside/eos/internal/imagespec"
)

// hasFlakes tells whether a device can have flakes of its own: it takes podman, and a
// registry to register them in.
func hasFlakes(s *imagespec.Spec) bool {
	return hasPodman(s) && s.Registry.Policy != imagespec.PolicyOff
}

// loadFlakes reads the programs that flakes take, those of the image and those of a device.
func (b *build) loadFlakes() error {
	var names []string
	if hasFlakes(b.Spec) {
		names = []string{"flake-ctl", pilot}
	} else if len(b.Spec.Flakes) > 0 {
		names = []string{pilot}
	}
	for _, name := range names {
		var err error
		if b.in.programs["/usr/bin/"+name], err = b.program(name); err != nil {
			return err
		}
	}
	return nil
}

// layFlakes makes the commands of the description that are containers, and their services.
func (t *tree) layFlakes(s *imagespec.Spec) error {
	for _, f := range s.Flakes {
		o := f.Registration()
		text, err := o.Text()
		if err != nil {
			return err
		}
		if err := t.addOnce(o.Name(), flake.ShippedDir+"/"+o.Name()+".yaml", text); err != nil {
			return err
		}
		if err := t.addOnce(o.Name(), o.App, nil); err != nil {
			return err
		}
		t.symlink(o.App, registration.Pilot)
		if o.Unit == "" {
			continue
		}
		if text, err = o.UnitText(); err != nil {
			return err
		}
		name := unit.File(o.Unit)
		if p, err := t.findUnit(name); err == nil {
			return taken(o.Name(), p)
		}
		if err := t.addOnce(o.Name(), unitDir+"/"+name, text); err != nil {
			return err
		}
		if err := t.enable(name); err != nil {
			return err
		}
	}
	return nil
}

// addOnce writes a file of a command where there is none.
func (t *tree) addOnce(command, path string, text []byte) error {
	if t.get(path) != nil {
		return taken(command, path)
	}
	t.write(path, 0o644, text)
	return nil
}

// taken says that a command cannot be made.
func taken(command, path string) error {
	return cli.Refuse(cli.Failure, fmt.Errorf("add the command %s: the image has %s already", command, path),
		"leave one of the two out, or give one of them another name")
}
