package restricted

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Program is the command by which a device asks for the repository, and this program's name.
const Program = "os-update-restricted"

// ImagesDir is where devices of the system that this one replaces look for images. They send it
// whatever the folder really is.
const ImagesDir = "/srv/www/fleet/os-images"

// What a request asks for.
type Op int

// The operations.
const (
	HTTP  Op = iota + 1 // speak HTTP over standard input and output
	Cat                 // write the image file Name to standard output
	Exist               // say by the exit status whether the image file Name is there
)

// A Request is what a key may be used for.
type Request struct {
	Op   Op
	Name string // of a file directly in the images folder; empty for HTTP
}

// ErrRefused is what everything else gets.
var ErrRefused = errors.New("this key reads updates and does nothing else")

// name is what image files are called: NAME.raw and what is beside it. There is no slash in it,
// no space, and nothing that a shell or a file system sees more in than letters.
var name = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_+-]*(\.[0-9A-Za-z_+-]+)*\.raw(\.dev|\.firmware|\.sha)?$`)

const maxName = 200

// Parse reads the command that a client sent, which sshd hands over in SSH_ORIGINAL_COMMAND. It is
// compared with the few there are, byte by byte, and never split by a shell's rules:
//
//	os-update-restricted
//	cat /srv/www/fleet/os-images/NAME.raw.dev
//	test -e /srv/www/fleet/os-images/NAME.raw.dev
//
// cat and test may be preceded by sudo, which means nothing. What does not match is ErrRefused.
func Parse(command string) (Request, error) {
	if command == Program {
		return Request{Op: HTTP}, nil
	}
	rest := strings.TrimPrefix(command, "sudo ")
	for _, form := range []struct {
		op     Op
		prefix string
	}{{Cat, "cat " + ImagesDir + "/"}, {Exist, "test -e " + ImagesDir + "/"}} {
		if file, ok := strings.CutPrefix(rest, form.prefix); ok && len(file) <= maxName && name.MatchString(file) {
			return Request{Op: form.op, Name: file}, nil
		}
	}
	shown := command
	if len(shown) > maxName {
		shown = shown[:maxName] + "..."
	}
	return Request{}, fmt.Errorf("command %q: %w", shown, ErrRefused)
}
