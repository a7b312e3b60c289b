package launch

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// resize gives the terminal of an application the size of ours. The runtime has that terminal,
// and does not do it.
func resize(pid int) {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if pid == 0 || err != nil {
		return
	}
	for fd := range 3 {
		file := filepath.Join("/proc", strconv.Itoa(pid), "fd", strconv.Itoa(fd))
		if to, err := os.Readlink(file); err != nil || !strings.HasPrefix(to, "/dev/pts/") && to != "/dev/console" {
			continue // it has closed it, or put something else there
		}
		f, err := os.OpenFile(file, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		err = unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, size)
		f.Close()
		if err == nil {
			return
		}
	}
}
