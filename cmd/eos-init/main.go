// Eos-init is process 1 of the initramfs, and the only program in it. See
// package earlyboot and docs/design/early-boot.md.
package main

import (
	"fmt"
	"os"

	"github.com/OSInside/eos/internal/earlyboot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "eos-init: not process 1 of an initramfs, there is nothing to do")
		os.Exit(2)
	}
	earlyboot.Main()
}
