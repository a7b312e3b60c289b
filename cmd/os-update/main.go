// Command os-update checks for, applies, commits and rolls back OS images on a
// device, and refreshes its boot loader. See os-update(8).
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run("os-update", Main)) }
