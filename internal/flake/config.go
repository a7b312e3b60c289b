package flake

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// ConfigFile is flakes.yml of the system; that of a user is UserConfig below his home.
const (
	ConfigFile = "/etc/flakes.yml"
	UserConfig = ".config/flakes.yml"
)

// Config is flakes.yml: where flakes are, and where podman keeps what they use.
type Config struct {
	Dir         string   // flakes_dir
	StorageConf string   // podman_storage_conf
	HostPaths   []string // host_paths: what images may name of the host
}

// ParseConfig reads a flakes.yml. The two keys for folders of ids are those of the older
// system and mean nothing here. That of a user has to say where his flakes are; that of the
// system need say nothing.
func ParseConfig(file string, text []byte, ofUser bool) (Config, error) {
	v, err := parseFile(file, text)
	if err != nil {
		return Config{}, err
	}
	d := &decoder{}
	var c Config
	if d.mapping(v, "", "generic") {
		g := v.fields["generic"]
		switch {
		case isNull(g) && ofUser:
			d.fail(v, "generic: is missing")
		case isNull(g):
		case d.mapping(g, "generic", "flakes_dir", "podman_storage_conf", "podman_ids_dir", "firecracker_ids_dir", "host_paths"):
			c.Dir, c.StorageConf = d.text(g, "generic", "flakes_dir", ofUser), d.text(g, "generic", "podman_storage_conf", ofUser)
			c.HostPaths = d.list(g, "generic", "host_paths")
			for _, path := range append([]string{c.Dir, c.StorageConf}, c.HostPaths...) {
				if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
					d.fail(g, "generic: %q is no absolute path", path)
				}
			}
		}
	}
	return c, d.err
}

// LoadConfig reads flakes.yml of the system. Without one, or where it says nothing, it is the
// usual.
func LoadConfig(file string) (Config, error) {
	c := Config{}
	f, err := readFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, err
	default:
		if c, err = ParseConfig(file, f.Text, false); err != nil {
			return c, err
		}
	}
	if c.Dir == "" {
		c.Dir = Dir
	}
	if c.StorageConf != "" {
		if _, err := os.Stat(c.StorageConf); err != nil {
			return c, err
		}
	}
	return c, nil
}
