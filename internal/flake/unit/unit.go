// Package unit makes services of flakes: units of systemd whose main process is the flake's
// command.
//
// [Unit.Text] is the unit file and [Owner] says whose a file is; both are functions of their
// arguments. The files lie beside the registrations, in the folder [Folder], as a part of
// them: package registration writes them, and package systemd has systemd know them.
package unit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Folder is where the files of units are, in a folder of registrations.
const Folder = "units"

// suffix is that of a service.
const suffix = ".service"

// Unit is a flake as a service.
type Unit struct {
	Name    string // of the unit, without .service
	Flake   string // the flake's name
	Command string // its path
	User    bool   // the service manager is that of a user
	Silent  bool   // podman is told to say nothing of when the container is ready
}

// ErrName says that something cannot be in a unit.
var ErrName = errors.New("it cannot be that of a service")

// unitName leaves the @ out: it is for instances of templates.
var (
	unitName = regexp.MustCompile(`^[A-Za-z0-9:_][A-Za-z0-9:_.-]*$`)
	plain    = regexp.MustCompile(`^/[A-Za-z0-9/._+@:=,-]*$`)
)

// maxName bounds a name with its suffix, as systemd does.
const maxName = 255

// ValidName tells whether a service may have this name, which is without its suffix.
func ValidName(name string) bool {
	return unitName.MatchString(name) && len(name)+len(suffix) <= maxName
}

// Check says what is wrong with the names of a unit.
func (u *Unit) Check() error {
	if !ValidName(u.Name) {
		return fmt.Errorf("unit %q: %w: want letters, digits and : _ . -", u.Name, ErrName)
	}
	if !plain.MatchString(u.Command) || path.Base(u.Command) != u.Flake {
		return fmt.Errorf("command %q: %w: want letters, digits and . _ + @ : = , - alone", u.Command, ErrName)
	}
	return nil
}

// File is the name of the file of a unit.
func File(name string) string { return name + suffix }

// Target is what a unit is started with.
func Target(user bool) string {
	if user {
		return "default.target"
	}
	return "multi-user.target"
}

// text is the file of a unit.
//
// The command is the main process, so its exit status is the service's; it hands on that
// the container is ready. There is one instance, and what an earlier one has left of its
// container is replaced. The launcher puts the container into the control group of the unit,
// which is delegated: when the command does not end in time, all that is left of both is
// killed.
const text = `# Made by flake-ctl(8), which takes it out again with its flake.
[Unit]
Description=Flake %[1]s
Documentation=man:podman-pilot(8)
%[5]s
[Service]
Type=%[3]s
ExecStart=%[2]s @service
KillMode=mixed
Delegate=yes
Restart=on-failure
RestartSec=5s
# The first start may put the container together.
TimeoutStartSec=5min

[Install]
WantedBy=%[4]s

[X-Flake]
Name=%[1]s
`

// Text is the unit file.
func (u *Unit) Text() ([]byte, error) {
	if err := u.Check(); err != nil {
		return nil, err
	}
	kind, after := "notify", "After=registry-rw.service network.target\n"
	if u.Silent {
		kind = "exec"
	}
	if u.User {
		after = ""
	}
	return fmt.Appendf(nil, text, u.Flake, u.Command, kind, Target(u.User), after), nil
}

// Owner returns the flake whose unit file this is; empty if it is none of ours.
func Owner(text []byte) string {
	section, name := "", ""
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		switch line := strings.TrimSpace(lines.Text()); {
		case strings.HasPrefix(line, "["):
			section = line
		case section == "[X-Flake]" && strings.HasPrefix(line, "Name="):
			name = strings.TrimPrefix(line, "Name=")
		}
	}
	return name
}

// Path is where the file of a unit is in a folder of registrations.
func Path(dir, name string) string { return filepath.Join(dir, Folder, File(name)) }
