package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/OSInside/eos/internal/flake"
)

// child is how a program is run that stands for the application.
type child struct {
	watch   *watcher // is told of it; may be nil
	pidFile string   // of the first process of its container; may be empty
	guest   bool     // the container is not its own
	proxy   bool     // it hands signals on, once it is ready to
}

// end is how it has ended.
type end struct {
	status int
	killed bool // the program was, so nobody has cleared up
}

// run runs a program in the place of the application: with the caller's streams and signals.
//
// At a terminal of its own the program is of our process group, so that it may use the
// terminal, which sends it no signals then. Otherwise it has a group of its own, and gets each
// signal once, from here.
func (j *job) run(argv []string, c child) (end, error) {
	j.Debug(argv)
	x := exec.Command(argv[0], argv[1:]...)
	x.Env = append(os.Environ(), j.env...)
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: !j.Terminal}
	switch {
	case j.Registration.Mode() == flake.Attach:
		x.SysProcAttr.Pdeathsig = syscall.SIGKILL // the application stays
	case c.watch == nil:
		x.SysProcAttr.Pdeathsig = syscall.SIGTERM // nobody else ends it
	}
	streams, err := j.connect(x)
	if err != nil {
		return end{}, err
	}
	notify, err := j.ready(x)
	if err != nil {
		return end{}, err
	}
	defer notify()
	if j.Terminal {
		if state, err := term.GetState(0); err == nil {
			defer func() { _ = term.Restore(0, state) }() // whatever end the program has come to
		}
	}
	signal.Notify(j.signals, passed(j.Terminal)...)
	if j.Terminal && c.guest {
		signal.Notify(j.signals, syscall.SIGWINCH)
		j.signals <- syscall.SIGWINCH // it may have changed already
	}
	if err := x.Start(); err != nil {
		streams.close()
		return end{}, fmt.Errorf("run %s: %w", argv[0], err)
	}
	j.started = true
	c.watch.child(x.Process.Pid)
	streams.start()
	state, err := j.wait(x.Process, c)
	if err != nil {
		return end{}, fmt.Errorf("wait for %s: %w", argv[0], err)
	}
	streams.finish()
	ws := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return end{128 + int(ws.Signal()), true}, nil
	}
	return end{status: ws.ExitStatus()}, nil
}

// hold is how long signals are kept from a program that does not get its application started.
const hold = 10 * time.Second

// hears tells whether a signal to the program that stands for the application reaches the
// application: that is there, and what stands for it hands signals on.
func (c child) hears(pid int) bool {
	return (c.pidFile == "" || runs(readPid(c.pidFile))) && (!c.proxy || handsOn(pid))
}

// wait hands on signals until the program has ended. While the application is not there yet,
// they are kept: podman that is interrupted while it makes a container leaves parts of it, some
// of which are at work. They are kept, too, while podman would die of them: it has started the
// application before it is ready to hand them on.
func (j *job) wait(p *os.Process, c child) (*os.ProcessState, error) {
	type result struct {
		state *os.ProcessState
		err   error
	}
	ended := make(chan result, 1)
	go func() {
		state, err := p.Wait()
		ended <- result{state, err}
	}()
	var k keeper
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline := time.Now().Add(hold)
	var kept []syscall.Signal
	for {
		var again <-chan time.Time
		switch {
		case len(kept) == 0:
		case c.hears(p.Pid) || time.Now().After(deadline):
			for _, number := range kept {
				switch {
				case number == syscall.SIGTSTP && !j.Terminal:
					pause(p, c)
				case number == syscall.SIGWINCH && j.Terminal:
					resize(readPid(c.pidFile))
				default:
					_ = p.Signal(number) // it may have ended meanwhile
				}
			}
			kept = nil
		default:
			again = time.After(5 * time.Millisecond)
		}
		select {
		case r := <-ended:
			return r.state, r.err
		case sig := <-j.signals:
			number := sig.(syscall.Signal)
			j.got[number] = true
			if number != syscall.SIGCONT {
				kept = append(kept, number)
			}
		case <-again:
		case <-ticker.C:
			if !c.guest && c.pidFile != "" && k.lost(c.pidFile) {
				_ = p.Kill() // it would wait for ever
			}
		}
	}
}

// pause stops the application, and then this process, as a terminal does with a job. Both go
// on together. The first process of a container does not get a signal to stop that it has
// not asked for, but is stopped from outside.
func pause(p *os.Process, c child) {
	stopped := c.processes()
	if len(stopped) == 0 {
		_ = p.Signal(syscall.SIGTSTP)
	}
	for _, pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	// Here somebody has told us to go on.
	for _, pid := range stopped {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	_ = p.Signal(syscall.SIGCONT)
}

// processes are those to stop.
func (c child) processes() []int {
	if !c.guest {
		return containerProcesses(c.pidFile)
	}
	if pid := readPid(c.pidFile); pid != 0 {
		return []int{groupOf(pid)}
	}
	return nil
}

// passed are the signals that the application gets: all that say something to it.
func passed(terminal bool) []os.Signal {
	var out []os.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP: // nobody gets them
		case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG: // ours: children, streams, the scheduler
		case syscall.SIGTTIN, syscall.SIGTTOU: // we read and write the terminal
		case 32, 33: // the C library's
		case syscall.SIGWINCH:
			if !terminal { // else the kernel has told the program already
				out = append(out, s)
			}
		default:
			out = append(out, s)
		}
	}
	return out
}

// streams connects a program with the caller's streams.
type streams struct {
	ours   []*os.File // ends that the program has
	copies []func()
	from   []*os.File // what is copied from it
	out    sync.WaitGroup
}

// finish waits until all that the program has written is copied. Others that have its streams
// may stay, and are not waited for.
func (s *streams) finish() {
	for _, r := range s.from {
		_ = r.SetReadDeadline(time.Now())
	}
	s.out.Wait()
}

// copyOut copies what comes, and after [streams.finish] what is there.
func copyOut(to io.Writer, from *os.File) {
	_, err := io.Copy(to, from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return // a terminal that is gone shows nothing
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10) // what a pipe holds
	for n := 1; n > 0; {
		if raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }) != nil || err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (s *streams) close() {
	for _, f := range s.ours {
		f.Close()
	}
}

// start closes what is the program's, and copies.
func (s *streams) start() {
	s.close()
	for _, c := range s.copies {
		go c()
	}
}

// connect gives the program its streams: the caller's own, but for a terminal, which podman
// does not hand into a container, and the journal, which knows a line's unit by who writes it.
// Between those and the program are pipes.
func (j *job) connect(x *exec.Cmd) (*streams, error) {
	s := &streams{}
	if j.Terminal {
		x.Stdin, x.Stdout, x.Stderr = os.Stdin, os.Stdout, os.Stderr
		return s, nil
	}
	if j.Given.Input {
		x.Stdin = os.Stdin
		if isTerminal(os.Stdin) {
			r, w, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			x.Stdin, s.ours = r, append(s.ours, r)
			s.copies = append(s.copies, func() {
				_, _ = io.Copy(w, os.Stdin) // the application has gone
				w.Close()
			})
		}
	}
	for _, o := range []struct {
		to  *os.File
		set *io.Writer
	}{{os.Stdout, &x.Stdout}, {os.Stderr, &x.Stderr}} {
		*o.set = o.to
		if !isTerminal(o.to) && !isJournal(o.to, j.getenv("JOURNAL_STREAM")) {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, err
		}
		*o.set, s.ours, s.from = w, append(s.ours, w), append(s.from, r)
		s.out.Add(1)
		s.copies = append(s.copies, func() {
			defer s.out.Done()
			copyOut(o.to, r)
		})
	}
	return s, nil
}

// isJournal tells whether a stream is the journal's, which says in a variable which that is.
func isJournal(f *os.File, stream string) bool {
	var st unix.Stat_t
	return stream != "" && unix.Fstat(int(f.Fd()), &st) == nil && fmt.Sprintf("%d:%d", st.Dev, st.Ino) == stream
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
