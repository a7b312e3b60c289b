package flake

// Config is flakes.yml of a user: where his flakes are and where podman keeps what they use.
type Config struct {
	Dir         string // flakes_dir
	StorageConf string // podman_storage_conf
}

// ParseConfig reads a flakes.yml. The two keys for folders of ids are those of the older
// system and mean nothing here.
func ParseConfig(file string, text []byte) (Config, error) {
	v, err := parseFile(file, text)
	if err != nil {
		return Config{}, err
	}
	d := &decoder{}
	var c Config
	if d.mapping(v, "", "generic") {
		g := v.fields["generic"]
		switch {
		case isNull(g):
			d.fail(v, "generic: is missing")
		case d.mapping(g, "generic", "flakes_dir", "podman_storage_conf", "podman_ids_dir", "firecracker_ids_dir"):
			c.Dir, c.StorageConf = d.text(g, "generic", "flakes_dir", true), d.text(g, "generic", "podman_storage_conf", true)
		}
	}
	return c, d.err
}
