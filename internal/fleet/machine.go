package fleet

import (
	"encoding/json"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Machine is who a device is, as far as it knows: what cannot be read is empty. None of it
// is proof of anything; only the key is.
type Machine struct {
	ID      string `json:"machine_id"`
	Image   string `json:"image"`
	Class   string `json:"class"`
	Arch    string `json:"arch"`
	Version string `json:"version"`
	BuildID string `json:"build_id"`
	HostKey string `json:"host_key,omitempty"` // fingerprint of the device's own ssh server
}

// Machine says who the device is. Image, class and version come from what the build wrote
// into the image, the version from what eos-init found in the slot where both are there.
func (d *Device) Machine() Machine {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	m := Machine{ID: read(d.MachineID)}
	for line := range strings.Lines(read(d.Release)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); name {
		case "IMAGE_ID":
			m.Image = value
		case "IMAGE_VERSION":
			m.Version = value
		}
	}
	var build struct{ Name, Class, Arch, Version string }
	if json.Unmarshal([]byte(read(d.Build)), &build) == nil && build.Name != "" {
		m.Image, m.Class, m.Arch, m.Version = build.Name, build.Class, build.Arch, build.Version
	}
	var boot struct {
		Version string `json:"version"`
		BuildID string `json:"build_id"`
	}
	if json.Unmarshal([]byte(read(d.Boot)), &boot) == nil {
		m.BuildID = boot.BuildID
		if boot.Version != "" {
			m.Version = boot.Version
		}
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(read(d.HostKey))); err == nil {
		m.HostKey = ssh.FingerprintSHA256(key)
	}
	return m
}

// name is the comment of the device's key: it stands at the end of a line of
// authorized_keys, so it is a word of plain characters.
func (m Machine) name() string {
	image := m.Image
	if image == "" {
		image = "eos"
	}
	if m.ID == "" {
		return plain(image)
	}
	return plain(image + "-" + m.ID)
}

// plain keeps what may stand in a line of authorized_keys.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._~+:/-", r):
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), 128)]
}
