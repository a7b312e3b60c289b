// Package fleet is about the key by which a device may fetch updates over ssh: where it
// comes from, and how a server gets to know it.
//
// [GetKey] puts a key where os-update looks for it: the device's own, or else the one that
// came with the image, which all devices share. [Enroll] makes the device its own key and
// returns the line that a server needs of it; [Send] sends that to a URL.
//
// The private key of a device is made on it, is stored in one file in the registry, and is
// in no argument, output or log. The file is encrypted as the registry is, and has no
// passphrase besides: a device has nobody to ask. What is known to others is computed from
// it, so there is no second file that could be of another key.
//
// Crash promise: a key is there as a whole or not at all, and a key that [Enroll] returned
// is on the medium. Runs at the same time wait for each other. Whether the registry lasts is
// what package registrystate says; this package mounts nothing and trusts no server.
package fleet

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/registrystate"
)

// KeyFile is where os-update looks for the key.
const KeyFile = "/run/id_fleet"

// Names of files that other packages have to know.
const (
	StateDir   = "/var/lib/eos/fleet"  // of the device's own key
	SharedFile = "/etc/fleet/id_fleet" // the image's key, inside the container
)

// ownFile is the device's private key, below its folder.
const ownFile = "id_ed25519"

// Device is where a device keeps everything; tests give other places.
type Device struct {
	State    string // folder of the device's own key
	Shared   string // key that came with the image
	Key      string // where os-update looks
	Registry string // state of the registry

	MachineID, Build, Boot, Release, HostKey string // who it is, see [Device.Machine]

	// volatile tells whether a folder is gone after the next restart.
	volatile func(dir string) bool
	// fault, if set, is called before every step of a write; tests cut there.
	fault func(point string) error
}

// System returns the places of a real device, which are the same inside the container.
func System() *Device {
	return &Device{
		State: StateDir, Shared: SharedFile, Key: KeyFile, Registry: registrystate.File,
		MachineID: "/etc/machine-id", Build: "/usr/share/eos/build.json", Boot: "/run/eos/boot.json",
		Release: "/etc/os-release", HostKey: "/run/eos/ssh/ssh_host_ed25519_key.pub",
		volatile: inMemory,
	}
}

// inMemory tells whether a folder, or where it would be made, lies in memory.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	for unix.Statfs(dir, &st) != nil && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
}

func (d *Device) cut(ctx context.Context, point string) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", point, err)
	}
	if d.fault == nil {
		return nil
	}
	return d.fault(point)
}
