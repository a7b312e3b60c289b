// Package osfiles holds EOS's own files of the root file system: units, network,
// ssh and watchdog configuration. They are laid into every image as they are;
// what depends on the image description is written by package image.
//
// [Root] returns them, [Registry] those of an image with a registry, [Podman] those of one with
// podman, [Flakes] those of one with both, [Fleet] those of one with the command fleet,
// [UpdateServer] those that an update server has besides. A folder named bin or libexec holds programs, all else is plain; both belong to
// root. The package only returns embedded files.
package osfiles

import (
	"embed"
	"io/fs"
)

//go:embed all:root all:flakes all:fleet all:podman all:registry all:update-server
var files embed.FS

// Root returns the files; the folder at its top is the root of the image.
func Root() fs.FS { return folder("root") }

// Registry returns the files of an image that has a registry.
func Registry() fs.FS { return folder("registry") }

// UpdateServer returns the files that make an image that of an update server.
func UpdateServer() fs.FS { return folder("update-server") }

// Podman returns the settings of an image that has podman.
func Podman() fs.FS { return folder("podman") }

// Flakes returns the files of an image whose devices can have flakes of their own.
func Flakes() fs.FS { return folder("flakes") }

// Fleet returns the files of an image that has the command fleet.
func Fleet() fs.FS { return folder("fleet") }

func folder(name string) fs.FS {
	sub, err := fs.Sub(files, name)
	if err != nil {
		// The names are constant and valid.
		panic(err)
	}
	return sub
}
