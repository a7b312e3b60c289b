package esp

import (
	"bytes"
	"fmt"
	"os"
)

// Files that the registry has here, for package registry to fill. The builder makes them, of these
// sizes in bytes and without content.
const (
	RegistryNote     = folder + "/registry" // one sector: what the device knows about its registry
	RegistryNoteSize = 512
	RegistryHead     = folder + "/registry.head" // copy of the LUKS2 header, behind 4096 bytes about it
	RegistryHeadSize = 4096 + 4<<20
	RegistryKey      = folder + "/registry.key" // policy keyfile: one sector with the key
	RegistryKeySize  = 512
)

// ReadFixed reads a file that has a fixed size, from the medium.
func (v *Volume) ReadFixed(name string, size int64) ([]byte, error) {
	f, err := os.Open(v.Path(name))
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, v.name, err)
	}
	defer f.Close()
	forget(f)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read %s of %s: %w", name, v.name, err)
	}
	return b, nil
}

// WriteFixed overwrites such a file in place and waits until it is on the medium. What is there
// already is not written again. A device whose builder did not make the file gets it.
func (v *Volume) WriteFixed(name string, content []byte) error {
	if old, err := v.ReadFixed(name, int64(len(content))); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := v.shape(name, int64(len(content)), make([]byte, len(content))); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, v.name, err)
	}
	if err := overwrite(v.Path(name), content); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, v.name, err)
	}
	return v.flush()
}
