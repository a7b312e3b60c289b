package earlyboot

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"crypto/rand"
)

// machineIDFile is where systemd takes the machine id from, if /etc/machine-id is empty.
const machineIDFile = "/run/machine-id"

// writeMachineID gives the system the id that the registry's partition has as its GUID. At the first boot,
// when that is still the builder's, it is a new random one, which becomes the GUID when the
// registry is made: systemd would else take that of the firmware, which is not always one of this
// machine alone.
func (b *Boot) writeMachineID() error {
	guid := ""
	if p, err := findPartition(b.table, nameRegistry); err == nil && p != nil {
		guid = p.GUID
	}
	id := machineID(guid)
	if id == "" {
		id = newMachineID()
	}
	if err := os.WriteFile(machineIDFile, []byte(id+"\n"), 0o444); err != nil {
		return fmt.Errorf("write machine id: %w", err)
	}
	return nil
}

// machineID returns the machine id in a GUID; empty if that is not one. Random GUIDs are of version 4,
// those of the builder of version 5 (RFC 9562).
func machineID(guid string) string {
	if len(guid) != 36 || guid[14] != '4' {
		return ""
	}
	return strings.ReplaceAll(guid, "-", "")
}

// newMachineID returns 128 random bits in the form of a UUID of version 4, as machine-id(5) wants it.
func newMachineID() string {
	b := make([]byte, 16)
	rand.Read(b) // does not fail
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b)
}
