// Command eos is the host tool of EOS: it makes keys, builds signed OS images from image
// descriptions, runs them in a virtual machine, publishes them and looks into them.
//
// Each command is in a file of its own, as a function newXCommand that takes the [cli.Env]
// and returns the cobra command; root.go puts them together. What a command does is in the
// packages under internal/, where the words of the command line are already values.
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run("eos", run)) }
