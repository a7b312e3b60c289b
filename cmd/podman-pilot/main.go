// Command podman-pilot is the launcher behind flakes that are containers: a link to it with
// the name of a flake is that flake's command. See podman-pilot(8).
package main

import (
	"os"
	"path/filepath"
	"runtime"

	"github.com/OSInside/eos/internal/cli"
)

// The kernel ends what was started for an application when the thread ends that has started
// it; the first one stays as long as the process.
func init() { runtime.LockOSThread() }

func main() { os.Exit(cli.Run(filepath.Base(os.Args[0]), Main)) }
