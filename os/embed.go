// Package osfiles holds EOS's own files of the root file system: units, network,
// ssh and watchdog configuration. They are laid into every image as they are;
// what depends on the image description is written by package image.
//
// [Root] returns them. A folder named bin or libexec holds programs, all else
// is plain; both belong to root. The package only returns embedded files.
package osfiles

import (
	"embed"
	"io/fs"
)

//go:embed all:root
var root embed.FS

// Root returns the files; the folder at its top is the root of the image.
func Root() fs.FS {
	sub, err := fs.Sub(root, "root")
	if err != nil {
		// The name is constant and valid.
		panic(err)
	}
	return sub
}
