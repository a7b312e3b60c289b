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
	"github.com/OSInside/eos/internal/flake/lockfile"
)

// order is what is to be done when a launcher has gone without doing it.
type order struct {
	Remove  []string // command line that removes the container; empty: it stays
	PidFile string   // is removed
	Files   []string // are removed
	Folder  string   // is removed with all that is in it; may be empty
	Kill    bool     // the process of PidFile is to end, with its group
	Within  []string // begins a command line that may end it where we may not
	Space   string   // process namespace that this has to be in

	child int // process that stands for the application; 0: there is none yet, -1: it has ended
}

// watcher is the process that waits for our end.
type watcher struct {
	order order
	pipe  *os.File
	cmd   *exec.Cmd
	env   []string
}

// WatchFlag is the argument by which the program does what another has left; [Watch] is told the
// two that follow.
const WatchFlag = "--watch"

// waiting is the watcher while nothing is to be done, which is nearly always: a shell, with a
// tenth of this program's memory and half the time to start. It reads the process that stands
// for the application, then the word that nothing is to be done, or no more.
const waiting = `while read -r line; do said=$line; done; [ "$said" = ` + nothing + ` ] || exec "$0" ` + WatchFlag + ` "$1" "${said:-0}"`

// nothing is that word.
const nothing = "nothing"

// watch starts it. It has a session of its own, and none of our streams. A lock is its too: what
// has a name of its own is not made anew before the last one has gone.
func (j *job) watch(o order, l *lockfile.Lock) (*watcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x := exec.Command("/bin/sh", "-c", waiting, self, string(text))
	x.Dir, x.Stdin, x.Env = "/", r, append(os.Environ(), j.env...)
	x.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l != nil {
		x.ExtraFiles = []*os.File{l.File()}
	}
	if err := x.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	return &watcher{order: o, pipe: w, cmd: x, env: j.env}, nil
}

// tell sends a line. A watcher that has ended did so because somebody wanted it.
func (k *watcher) tell(line string) { _, _ = io.WriteString(k.pipe, line+"\n") }

// child tells of the process that stands for the application.
func (k *watcher) child(pid int) {
	if k != nil {
		k.order.child = pid
		k.tell(strconv.Itoa(pid))
	}
}

// dismiss says that nothing is to be done.
func (k *watcher) dismiss() {
	k.order.tidy()
	k.tell(nothing)
	k.pipe.Close()
	_ = k.cmd.Wait()
}

// clean does what the watcher would, and dismisses it.
func (k *watcher) clean() error {
	k.order.child = -1
	err := k.order.do(k.env)
	k.dismiss()
	return err
}

// Watch does what a launcher has left that has gone: its order, and the process that stands for
// the application.
func Watch(left, child string) error {
	var o order
	if err := json.Unmarshal([]byte(left), &o); err != nil {
		return fmt.Errorf("read what is to be done: %w", err)
	}
	var err error
	if o.child, err = strconv.Atoi(child); err != nil {
		return fmt.Errorf("read what is to be done: %w", err)
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
	if o.Folder != "" {
		_ = os.RemoveAll(o.Folder)
	}
}

// patience is how long a program may take to end that was told to.
const patience = 10 * time.Second

// do ends the application and removes the container. Podman that is at work on one is not
// disturbed before the application is there: what it has begun would stay.
func (o *order) do(env []string) error {
	defer o.tidy()
	child := openProcess(o.child)
	o.await(child)
	for deadline := time.Now().Add(patience); o.Kill; {
		if pid := readPid(o.PidFile); pid != 0 && pidNamespace(pid) == o.Space {
			if err := unix.Kill(groupOf(pid), unix.SIGKILL); errors.Is(err, unix.EPERM) && len(o.Within) > 0 {
				kill := append(slices.Clone(o.Within), "/usr/bin/kill", "-KILL", "--", strconv.Itoa(groupOf(pid)))
				_ = command.Run(context.Background(), command.Cmd{Argv: kill, Env: env}) // it is tried again
			}
		}
		if child.gone(50*time.Millisecond) || time.Now().After(deadline) {
			break
		}
	}
	remove := func() error {
		return command.Run(context.Background(), command.Cmd{Argv: o.Remove, Env: env})
	}
	var err error
	for deadline := time.Now().Add(patience); len(o.Remove) > 0; {
		err = remove()
		if child.gone(100 * time.Millisecond) {
			break
		}
		if time.Now().After(deadline) {
			child.kill()
		}
	}
	if !child.gone(patience) {
		child.kill()
	}
	// Where what podman has noted was wrong, it says so once, and then knows better.
	for tries := 0; len(o.Remove) > 0 && tries < 3 && (err != nil || tries == 0 && o.child > 0); tries++ {
		err = remove()
	}
	if err != nil {
		return errors.Join(errors.New("remove what is left"), err)
	}
	return nil
}

// await waits until the application is there, or what is to start it has gone.
func (o *order) await(child process) {
	wait := patience
	if o.child == 0 {
		wait = 2 * time.Second // for one that we may not have been told of
	}
	for deadline := time.Now().Add(wait); o.child >= 0 && !runs(readPid(o.PidFile)) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if o.child > 0 && child.gone(0) {
			return
		}
	}
}
