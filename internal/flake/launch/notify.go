package launch

import (
	"bytes"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/flake"
)

// ready lets the application tell the service manager that it is ready. Podman would tell
// it besides that another process is the service now; but that is this one, whose exit status
// is the application's. So podman gets a socket of ours, and what it says there is handed on.
func (j *job) ready(x *exec.Cmd) (closed func(), err error) {
	if j.notify == "" || j.Registration.Mode() != flake.Plain {
		return func() {}, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	path := j.notifyFile()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	x.Env = append(x.Env, "NOTIFY_SOCKET="+path)
	go func() {
		buf := make([]byte, 64<<10)
		to := &unix.SockaddrUnix{Name: j.notify}
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return
			}
			if text := handOn(buf[:n]); len(text) > 0 {
				_ = unix.Sendto(fd, text, 0, to) // nobody listens any more
			}
		}
	}()
	return func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		_ = os.Remove(path)
	}, nil
}

func (j *job) notifyFile() string { return j.pidFile + ".notify" }

// handOn is what of a message is for the service manager.
func handOn(message []byte) []byte {
	var out [][]byte
	for line := range bytes.SplitSeq(message, []byte("\n")) {
		if len(line) > 0 && !bytes.HasPrefix(line, []byte("MAINPID=")) {
			out = append(out, line)
		}
	}
	return bytes.Join(out, []byte("\n"))
}
