// Command fleet gives a device the key by which it fetches updates over ssh, and makes it
// one of its own. It is the only program of the container image of this name. See fleet(8).
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run("fleet", Main)) }
