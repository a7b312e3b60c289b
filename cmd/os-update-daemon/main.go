// Command os-update-daemon is the update server: it hands out a repository, and keeps copies of
// disk images that are published elsewhere. It decides nothing about trust, which devices do by
// signatures; it needs no privilege. See os-update-daemon(8).
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run(program, Main)) }
