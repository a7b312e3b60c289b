// Command flake-ctl registers flakes, commands that are containers, takes them out again and
// shows them, and gets containers for them. See flake-ctl(8).
//
// Each command is in a file of its own, as a method that returns the cobra command; root.go
// puts them together.
package main

import (
	"os"

	"github.com/OSInside/eos/internal/cli"
)

func main() { os.Exit(cli.Run("flake-ctl", Main)) }
