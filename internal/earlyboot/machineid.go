package earlyboot

import (
	"crypto/rand"
	"encoding/hex"
	"os"

	"github.com/OSInside/eos/internal/registry/head"
)

// machineIDFile is where systemd takes the machine id from, if /etc/machine-id is empty.
const machineIDFile = "/run/machine-id"

// writeMachineID gives the system the id that the registry's partition has as its GUID. At the first boot,
// when that is still the builder's, it is a new random one, which becomes the GUID when the
// registry is made: systemd would else take that of the firmware, which is not always one of this
// machine alone. Where it cannot be written systemd does that: no reason to give a boot up.
func (b *Boot) writeMachineID() error {
	guid := ""
	if p, err := findPartition(b.table, nameRegistry); err == nil && p != nil {
		guid = p.GUID
	}
	id := head.MachineID(guid)
	if id == "" {
		id = newMachineID()
	}
	if err := os.WriteFile(machineIDFile, []byte(id+"\n"), 0o444); err != nil {
		b.log.printf(levelWarning, "write machine id: %v", err)
	}
	return nil
}

// newMachineID returns 128 random bits in the form of a UUID of version 4, as machine-id(5) wants it.
func newMachineID() string {
	b := make([]byte, 16)
	rand.Read(b) // does not fail
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b)
}
