// Command probe is the only program of a container in tests: it shows the files that its
// arguments, which are patterns, match, and with =TEXT behind a name writes one. It is built
// by the tests that use it and is nowhere else.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	for _, pattern := range os.Args[1:] {
		if name, text, write := strings.Cut(pattern, "="); write {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				fmt.Println(err)
			}
			continue
		}
		found, _ := filepath.Glob(pattern)
		if len(found) == 0 {
			fmt.Println(pattern, "none")
		}
		for _, p := range found {
			show(p)
		}
	}
}

func show(p string) {
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		fmt.Println(p, err)
		return
	}
	about := fmt.Sprintf("%s %o %d:%d %d %d", p, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec)
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Size < 1000 {
		text, err := os.ReadFile(p)
		about += fmt.Sprintf(" %s %v", text, err)
	}
	buf := make([]byte, 100)
	for _, name := range []string{"security.capability", "user.note"} {
		if n, err := syscall.Getxattr(p, name, buf); err == nil {
			about += fmt.Sprintf(" %s=%x", name, buf[:n])
		}
	}
	fmt.Println(about)
}
