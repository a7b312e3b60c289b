// Command app is the only program of the containers that flakes are measured with: true, cat
// or sleep, by the name it is called by. It needs nothing else in a container and is nowhere
// but in those.
package main

import (
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "true":
	case "cat":
		// Like cat, through memory of its own: what io.Copy would have the kernel do is not
		// what an application does.
		if _, err := io.CopyBuffer(struct{ io.Writer }{os.Stdout}, struct{ io.Reader }{os.Stdin}, make([]byte, 128<<10)); err != nil {
			os.Exit(1)
		}
	case "sleep": // for ever: nobody waits as long as is asked for
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
		<-end
	default:
		os.Exit(127)
	}
}
