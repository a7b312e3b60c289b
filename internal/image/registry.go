package image

import (
	"encoding/json"
	"fmt"

	"github.com/OSInside/eos/internal/imagespec"
	osfiles "github.com/OSInside/eos/os"
)

// registryProgram is where an image with a registry has its program.
const registryProgram = "/usr/sbin/flake-registry"

// registryUnits are what it starts. The last two are there only if what they are for is.
var registryUnits = []string{
	"registry-rw.service", "registry-resize.service", "registry-confirm.service", "registry-network.service",
}

const journalConf = "[Journal]\nStorage=auto\nSystemMaxUse=256M\n"

// layRegistry lays the files of an image with a registry over those of every image.
func (t *tree) layRegistry(s *imagespec.Spec) error {
	if err := t.lay(osfiles.Registry()); err != nil {
		return err
	}
	config, err := json.Marshal(struct {
		Policy  string `json:"policy"`
		Journal bool   `json:"journal"`
	}{s.Registry.Policy, s.Registry.Journal})
	if err != nil {
		return fmt.Errorf("write registry configuration: %w", err)
	}
	t.write("/usr/share/eos/registry.json", 0o644, append(config, '\n'))
	t.symlink("/usr/share/flakes", "../../var/lib/flakes")
	t.mkdir("/usr/local/lib/systemd", 0o755)
	t.symlink("/usr/local/lib/systemd/network", "/var/lib/eos/network")
	if s.Registry.Journal {
		t.write("/usr/lib/systemd/journald.conf.d/20-registry.conf", 0o644, []byte(journalConf))
	}
	return nil
}

// enableRegistry enables its units.
func (t *tree) enableRegistry(s *imagespec.Spec) error {
	units := registryUnits
	if s.Registry.Journal {
		units = append(units[:len(units):len(units)], "registry-journal.service")
	}
	for _, u := range units {
		if err := t.enable(u); err != nil {
			return err
		}
	}
	return nil
}

// warnRegistry says what a policy means that does not protect a disk from who holds it.
func warnRegistry(p Progress, s *imagespec.Spec) {
	switch s.Registry.Policy {
	case imagespec.PolicyKeyfile:
		p.Note("registry.policy keyfile: the key lies on the same disk as the data; it protects a partition that is erased or given away alone, not a disk that is lost or stolen")
	case imagespec.PolicyNone:
		p.Note("registry.policy none: the registry is not encrypted; who holds the disk can read and change it")
	}
}
