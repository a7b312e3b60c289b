// Command podman-pilot is the launcher behind flakes that are containers: a link to it with
// the name of a flake is that flake's command. See podman-pilot(8).
package main

import (
	"os"
	"path/filepath"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run(filepath.Base(os.Args[0]), Main)) }
