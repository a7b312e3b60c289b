// Package imagespec reads image descriptions, the strict YAML files that say what goes into
// an OS image. docs/image-description.md is the reference for people who write them.
//
// [Load] reads a file and applies one of its profiles; [Parse] does the same for bytes,
// without looking at any other file. [LoadContainer] and [ParseContainer] are for container
// descriptions, a smaller kind that [KindOf] tells apart. All report everything that is wrong, not only the
// first: the error joins one [*Problem] per fault, each "file:line: key: what" with a hint.
// Faults in profiles that were not asked for are reported too.
//
// A [Spec] that comes without an error has been checked: names fit their use, sizes fit a
// disk, paths are absolute and clean, nothing is listed twice. What can only be known while
// building (that a package exists, that a key is there, that the root fits its slot) is the
// builder's business. Profiles and architectures that it cannot make yet are accepted here.
//
// YAML anchors, aliases, tags and several documents in one file are not supported. The
// package holds no state. [Load] only reads.
package imagespec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Names of profiles that exist without being described.
const (
	ProfileAB     = "AB"            // two slots; what an empty profile name means
	ProfileStatic = "Static"        // one slot, no updates in place
	ProfileServer = "update-server" // two slots, and the programs of an update server
)

// Values of words with a fixed set.
const (
	ActivateKexec  = "kexec"
	ActivateReboot = "reboot"

	PolicyOff     = "off"     // no registry is made
	PolicyNone    = "none"    // it is not encrypted
	PolicyTPM2    = "tpm2"    // unlocked by a TPM 2.0
	PolicyKeyfile = "keyfile" // unlocked by a key file on the ESP

	OutputRaw   = "raw"   // sparse disk image
	OutputZst   = "zst"   // the same, compressed
	OutputQcow2 = "qcow2" // the same, for QEMU
)

// Spec is an image description with one profile applied.
type Spec struct {
	File    string `yaml:"-" json:"-"` // as given to Load
	Profile string `yaml:"-"`

	Name     string   `yaml:"name"`    // IMAGE_ID and first part of all file names
	Class    string   `yaml:"class"`   // device class
	Version  string   `yaml:"version"` // by Debian's rules, without an epoch
	Arch     string   `yaml:"arch"`    // Debian's name: amd64, arm64
	Debian   Debian   `yaml:"debian"`
	Packages []string `yaml:"packages"`
	Remove   Remove   `yaml:"remove"`
	Files    []File   `yaml:"files"`
	Units    Units    `yaml:"units"`
	Hostname string   `yaml:"hostname"`
	Users    []User   `yaml:"users"`
	Kernel   Kernel   `yaml:"kernel"`
	Disk     Disk     `yaml:"disk"`
	Squashfs Squashfs `yaml:"squashfs"`
	Keys     Keys     `yaml:"keys"`
	Update   Update   `yaml:"update"`
	Fleet    Fleet    `yaml:"fleet"`
	Server   Server   `yaml:"server"`
	Registry Registry `yaml:"registry"`
	Boot     Boot     `yaml:"boot"`
	Dev      bool     `yaml:"dev"` // the caller's ssh key and a console login are added
	Outputs  []string `yaml:"outputs"`

	// Container images of the read-only store. Left out where there are none, so that
	// older descriptions keep their digest.
	Containers []Container `yaml:"containers" json:",omitempty"`
	Flakes     []Flake     `yaml:"flakes" json:",omitempty"` // commands that are containers
}

// Debian says where packages come from.
type Debian struct {
	Suite  string `yaml:"suite"`
	Mirror string `yaml:"mirror"` // empty: what mmdebstrap finds by itself
}

// Remove takes things out again.
type Remove struct {
	Packages []string `yaml:"packages"`
	Paths    []string `yaml:"paths"` // patterns for [Match]
}

// File is a file to add: a link if Link is set, a copy of Source if that is set, else
// Content.
type File struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	Source  string `yaml:"source"` // below the folder of the description
	Link    string `yaml:"link"`   // target of a symbolic link
	Mode    Mode   `yaml:"mode"`   // default 0644
	Owner   string `yaml:"owner"`  // default root
	Group   string `yaml:"group"`  // default root

	Sum string `yaml:"-"` // SHA-256 of Source's content, set by Load
}

// Units changes what systemd starts.
type Units struct {
	Enable []string `yaml:"enable"`
	Mask   []string `yaml:"mask"`
	Add    []Unit   `yaml:"add"`
}

// Unit is a unit file to add to /usr/lib/systemd/system.
type Unit struct {
	Name    string `yaml:"name"`
	Content string `yaml:"content"`
}

// User is an account. There are none by default, and root has no password.
type User struct {
	Name         string   `yaml:"name"`
	SSHKeys      []string `yaml:"ssh_keys"`      // lines of authorized_keys
	PasswordHash string   `yaml:"password_hash"` // crypt(5); empty: no password login
	Shell        string   `yaml:"shell"`         // default /bin/bash
	UID          int      `yaml:"uid"`           // default 0 for root, else from 1000 up in order
}

// Kernel configures the kernel.
type Kernel struct {
	CommandLine string `yaml:"command_line"` // words added to those EOS needs
}

// Disk is the layout of the disk image.
type Disk struct {
	Slot     Size `yaml:"slot"`     // of each slot partition
	ESP      Size `yaml:"esp"`      // of p.UEFI
	Registry Size `yaml:"registry"` // of p.spare; it grows on first boot
	Slots    int  `yaml:"slots"`    // 2, or 1 in the profile Static
}

// Squashfs configures the root filesystem.
type Squashfs struct {
	Level int `yaml:"level"` // of zstd
}

// Keys names signing keys: in the keys directory, or paths of .pub files.
type Keys struct {
	Sign   string   `yaml:"sign"`
	Accept []string `yaml:"accept"`
}

// Update is written to /etc/os-update.yml.
type Update struct {
	Server   string `yaml:"server"` // empty: the device has no update server
	Name     string `yaml:"name"`   // of the image in the repository; default the image's
	Activate string `yaml:"activate"`
	Channel  string `yaml:"channel"`    // followed besides stable
	Limit    string `yaml:"limit_rate"` // bytes a second, as 1MiB; empty: no bound
	// Paths on the device, empty where there is none.
	PKey        string `yaml:"pkey"`        // private key for ssh
	CA          string `yaml:"ca"`          // authorities for https besides the system's
	Certificate string `yaml:"certificate"` // by which an https server knows the device
	Key         string `yaml:"key"`         // its private key
}

// Server is what an update server does; it is for the profile update-server.
type Server struct {
	Images   []ServerImage `yaml:"images"`
	Mirror   string        `yaml:"mirror"`   // URL of a repository to keep a copy of; empty: none
	Interval Duration      `yaml:"interval"` // how often origins are asked
	// Of what it serves over HTTP, or with a certificate over HTTPS. Empty: the program's own.
	Listen      string `yaml:"listen"`
	Metrics     string `yaml:"metrics"`
	Certificate string `yaml:"certificate"` // paths on the server
	Key         string `yaml:"key"`
	ClientCA    string `yaml:"client_ca"`
}

// ServerImage is a disk image that an update server keeps a copy of.
type ServerImage struct {
	Image   string `yaml:"image"`   // URL
	Name    string `yaml:"name"`    // of the copy
	Keyring string `yaml:"keyring"` // path in the image; empty: no signature is asked for
}

// Registry configures the data partition.
type Registry struct {
	Policy  string `yaml:"policy"`
	Journal bool   `yaml:"journal"` // the journal is kept in it
}

// Boot configures how long boot may take.
type Boot struct {
	Watchdog      Duration `yaml:"watchdog"`       // of the hardware; 0: off
	HealthTimeout Duration `yaml:"health_timeout"` // of a trial
}

// Default returns the values of everything a description leaves out.
func Default() Spec {
	return Spec{
		Arch:     "amd64",
		Debian:   Debian{Suite: "trixie"},
		Disk:     Disk{Slot: 512 * MiB, ESP: 128 * MiB, Registry: 64 * MiB, Slots: 2},
		Squashfs: Squashfs{Level: 15},
		Keys:     Keys{Sign: "image", Accept: []string{"image"}},
		Update:   Update{Activate: ActivateKexec},
		Server:   Server{Interval: Duration(time.Hour)},
		Registry: Registry{Policy: PolicyOff},
		Boot:     Boot{Watchdog: Duration(180 * time.Second), HealthTimeout: Duration(300 * time.Second)},
		Outputs:  []string{OutputRaw, OutputZst},
	}
}

// later are profiles that are known by name, so that descriptions can have them already.
var later = []string{"EC2", "RPI", "RPI5"}

// Supported returns an error if the builder cannot make this image yet.
func (s *Spec) Supported() error {
	switch {
	case slices.Contains(later, s.Profile):
		return fmt.Errorf("%s: images of the profile %s cannot be built yet, only those of AB, Static, update-server and profiles of your own", s.File, s.Profile)
	case s.Arch != "amd64":
		return fmt.Errorf("%s: images for %s cannot be built yet, only for amd64", s.File, s.Arch)
	}
	return nil
}

// SetVersion replaces the version, as eos build --version does. A version that [Load] would
// refuse is an error here too.
func (s *Spec) SetVersion(v string) error {
	if what, fix := badVersion(v); what != "" {
		return fmt.Errorf("set version: %s; %s", what, fix)
	}
	s.Version = v
	return nil
}

// BaseName returns NAME-VERSION, the first part of the names of all files a build makes.
func (s *Spec) BaseName() string { return s.Name + "-" + s.Version }

// SourcePath returns where the content of f comes from.
func (s *Spec) SourcePath(f File) string { return beside(s.File, f.Source) }

// Digest returns the SHA-256, in hexadecimal, of the description's canonical form: all
// that influences the bytes of an image, the content of source files included. Where the
// description is stored, how it is written and which outputs it asks for do not count.
// Keys count by name; a builder adds their ids.
func (s *Spec) Digest() string {
	c := *s
	c.Outputs = nil
	data, err := json.Marshal(c)
	if err != nil {
		// Spec has no field that JSON cannot hold.
		panic(fmt.Sprintf("imagespec: marshal description: %v", err))
	}
	sum := sha256.Sum256(append([]byte("EOS image description v1\x00"), data...))
	return hex.EncodeToString(sum[:])
}
