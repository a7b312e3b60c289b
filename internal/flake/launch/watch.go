package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
)

// order is what is to be done when a launcher has gone without doing it.
type order struct {
	Remove  []string // command line that removes the container; empty: it stays
	PidFile string   // is removed
	Files   []string // are removed
	Kill    bool     // the process of PidFile is to end
	Within  []string // begins a command line that may end it where we may not
	Space   string   // process namespace that this has to be in

	Child int  // process that stands for the application, once there is one
	Done  bool // nothing is to be done
}

// watcher is the process that waits for our end.
type watcher struct {
	order order
	pipe  *os.File
	cmd   *exec.Cmd
	env   []string
}

// WatchFlag is the argument by which the program becomes a watcher.
const WatchFlag = "--watch"

// watch starts it. It has a session of its own, and none of our streams.
func (j *job) watch(o order) (*watcher, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x := exec.Command("/proc/self/exe", WatchFlag)
	x.Args[0] = "podman-pilot"
	x.Dir, x.Stdin, x.Env = "/", r, append(os.Environ(), j.env...)
	x.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := x.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	k := &watcher{order: o, pipe: w, cmd: x, env: j.env}
	return k, k.tell(o)
}

func (k *watcher) tell(o order) error { return json.NewEncoder(k.pipe).Encode(o) }

// child tells of the process that stands for the application.
func (k *watcher) child(pid int) {
	if k != nil {
		k.order.Child = pid
		_ = k.tell(k.order) // it ends with us alone, or somebody wants it so
	}
}

// dismiss says that nothing is to be done.
func (k *watcher) dismiss() {
	k.order.tidy()
	_ = k.tell(order{Done: true})
	k.pipe.Close()
	_ = k.cmd.Wait()
}

// clean does what the watcher would, and dismisses it.
func (k *watcher) clean() error {
	k.order.Child = 0
	err := k.order.do(k.env)
	k.dismiss()
	return err
}

// Watch waits for the end of a launcher, and does what that has not done.
func Watch(from io.Reader) error {
	var o order
	in := json.NewDecoder(from)
	for {
		var next order
		if err := in.Decode(&next); err != nil {
			break // it has gone
		}
		o = next
		if o.Done {
			return nil
		}
	}
	return o.do(nil)
}

// tidy removes files.
func (o *order) tidy() {
	for _, f := range append(o.Files, o.PidFile) {
		if f != "" {
			_ = os.Remove(f)
		}
	}
}

// patience is how long a program may take to end that was told to.
const patience = 10 * time.Second

// do ends the application and removes the container. Podman may be at work on it: it is told
// to end first, and what it made meanwhile is removed too.
func (o *order) do(env []string) error {
	defer o.tidy()
	var child int = -1
	if o.Child > 0 {
		child, _ = unix.PidfdOpen(o.Child, 0)
	}
	tell := func(sig unix.Signal) {
		if child >= 0 {
			_ = unix.PidfdSendSignal(child, sig, nil, 0)
		}
	}
	gone := func(wait time.Duration) bool {
		if child < 0 {
			return true
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		return err == nil && n > 0
	}
	if o.Kill {
		for deadline := time.Now().Add(patience); ; {
			if pid := readPid(o.PidFile); pid != 0 && pidNamespace(pid) == o.Space {
				if err := unix.Kill(pid, unix.SIGKILL); errors.Is(err, unix.EPERM) && len(o.Within) > 0 {
					kill := append(slices.Clone(o.Within), "/usr/bin/kill", "-KILL", strconv.Itoa(pid))
					_ = command.Run(context.Background(), command.Cmd{Argv: kill, Env: env}) // it is tried again
				}
			}
			if gone(50*time.Millisecond) || time.Now().After(deadline) {
				break
			}
		}
	}
	tell(unix.SIGTERM)
	var err error
	for deadline := time.Now().Add(patience); len(o.Remove) > 0; {
		err = command.Run(context.Background(), command.Cmd{Argv: o.Remove, Env: env})
		if gone(100 * time.Millisecond) {
			break
		}
		if time.Now().After(deadline) {
			tell(unix.SIGKILL)
		}
	}
	if !gone(patience) {
		tell(unix.SIGKILL)
	}
	if len(o.Remove) > 0 && o.Child > 0 {
		err = command.Run(context.Background(), command.Cmd{Argv: o.Remove, Env: env})
	}
	if err != nil {
		return errors.Join(errors.New("remove what is left"), err)
	}
	return nil
}
