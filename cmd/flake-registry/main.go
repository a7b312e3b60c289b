// Command flake-registry makes, opens and looks after the registry, the one place a
// device writes to. See flake-registry(8).
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run("flake-registry", Main)) }
