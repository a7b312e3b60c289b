// Command os-update-restricted is the forced command of an ssh key that may read
// updates. See os-update-restricted(8).
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/serve/restricted"
)

func main() { os.Exit(cli.Run(restricted.Program, Main)) }
