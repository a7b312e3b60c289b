package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/registrystate"
)

// forced is what stands before a public key in the server's authorized_keys: the key reads
// updates and can do nothing else, also on a server that is not an update-server image.
const forced = `command="/usr/bin/os-update-restricted",restrict`

// Options says how to enroll.
type Options struct {
	New       bool // make another key though there is one
	Transient bool // make one though the next restart loses it
}

// Enrolment is what a server has to know about a device. There is nothing secret in it.
type Enrolment struct {
	AuthorizedKey string  `json:"authorized_key"` // the server's line
	PublicKey     string  `json:"public_key"`
	Fingerprint   string  `json:"fingerprint"`
	Made          bool    `json:"made"`                // false: the device had it already
	Transient     bool    `json:"transient,omitempty"` // the next restart loses it
	Machine       Machine `json:"machine"`
}

// Enroll makes the device's own key, or returns the one it has. Another one takes the place
// of the old in one step, when it is on the medium. It is refused where the next restart
// would lose the key.
func (d *Device) Enroll(ctx context.Context, o Options) (*Enrolment, error) {
	lost := d.lost()
	if lost != "" && !o.Transient {
		return nil, cli.Refuse(cli.Degraded, fmt.Errorf("make a key for this device: %s, the next restart would lose it", lost),
			"flake-registry --status says what is wrong with the registry; --transient makes a key until then")
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return d.enroll(ctx, o, lost != "")
}

// lost says why the next restart would lose a key; empty if it would not.
func (d *Device) lost() string {
	if st := registrystate.Load(d.Registry); !st.OK {
		return "the registry is not there (" + st.Reason + ")"
	}
	if d.volatile != nil && d.volatile(d.State) {
		return d.State + " lies in memory"
	}
	return ""
}

// enroll does it with the folder locked.
func (d *Device) enroll(ctx context.Context, o Options, transient bool) (*Enrolment, error) {
	m := d.Machine()
	path := filepath.Join(d.State, ownFile)
	made := false
	k, err := LoadKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || o.New:
		if k, err = newKey(m.name()); err != nil {
			return nil, err
		}
		if err := d.write(ctx, path, k.private); err != nil {
			return nil, err
		}
		made = true
	case err != nil:
		return nil, cli.Refuse(cli.Failure, err, "fleet --enroll --new makes another key")
	}
	return &Enrolment{
		AuthorizedKey: forced + " " + k.Public() + " " + m.name(),
		PublicKey:     k.Public(), Fingerprint: k.Fingerprint(), Made: made, Transient: transient, Machine: m,
	}, nil
}

// Text returns lines that can be appended to the server's authorized_keys as they are.
func (e *Enrolment) Text() string {
	m := e.Machine
	about := []string{"machine " + known(m.ID), "image " + known(m.Image) + " " + known(m.Version)}
	if m.Class != "" {
		about = append(about, "class "+m.Class)
	}
	if m.HostKey != "" {
		about = append(about, "host key "+m.HostKey)
	}
	about = append(about, "key "+e.Fingerprint)
	// What files of the device say must not end the comment.
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.Join(about, ", "))
	return "# " + line + "\n" + e.AuthorizedKey + "\n"
}

func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
