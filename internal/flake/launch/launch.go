// Package launch starts flakes: it does what package flake decides, and stays beside it until
// the application has ended.
//
// [Run] is the one call. It returns the exit status of the application, or an error if that
// was not started. The application has the caller's own streams where none of them is a
// terminal; signals that the caller gets, it gets. What stands between is as little as can
// be: podman, for as long as it runs a container of its own; the runtime alone, where the
// container runs already.
//
// A container that stays is made by one of those who want it: they hold a lock meanwhile. Its
// id is kept in a folder of the user's below /run; it is a hint, podman knows better.
//
// Whatever end the caller comes to, a container that goes with the application goes: another
// process, of the same program, waits for the caller's end ([Watch]) and removes what is left.
// A power cut is the business of `flake-ctl clean`, at the next start of the system.
package launch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
	"github.com/OSInside/eos/internal/flake/fetch"
	"github.com/OSInside/eos/internal/flake/lockfile"
	"github.com/OSInside/eos/internal/registrystate"
)

// Options is a call of a flake, and the system it is made on.
type Options struct {
	Registration *flake.Registration
	Call         *flake.Call
	StorageConf  string   // of podman; empty: podman's own choice
	HostPaths    []string // folders of the host that images may name files of
	Registry     registrystate.State
	Dir          string // of the user's own, gone after a restart; [Dir]
	Note         func(format string, a ...any)
	Debug        func(argv []string) // is told what is run; may be nil
}

// ErrBusy says that an instance that goes with its application is there already.
var ErrBusy = errors.New("it is running already")

// job is one call at work.
type job struct {
	Options
	*flake.Launch
	env     []string                // of podman
	signals chan os.Signal          // all there are for the application, also before its start
	got     map[syscall.Signal]bool // those that have been taken from there
	started bool                    // what stands for the application
	pidFile string
	getenv  func(string) string // the caller's environment
	notify  string              // socket of the service manager that waits for the application
}

// Run starts the flake and waits for its end.
func Run(ctx context.Context, o Options) (status int, err error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("start flake %s: %w", o.Registration.Name, err) }
	if o.Debug == nil {
		o.Debug = func([]string) {}
	}
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails
	j := &job{Options: o, signals: make(chan os.Signal, 64), got: map[syscall.Signal]bool{}, notify: os.Getenv("NOTIFY_SOCKET")}
	signal.Notify(j.signals, ending...)
	if o.StorageConf != "" {
		j.env = []string{"CONTAINERS_STORAGE_CONF=" + o.StorageConf}
	}
	own := !foreign()
	j.getenv = ownEnvironment()
	j.pidFile = filepath.Join(o.Dir, "pid-"+hex.EncodeToString(random))
	s := flake.Situation{
		Registry: o.Registry, Own: own, Home: home(), Random: hex.EncodeToString(random),
		PidFile: j.pidFile, Getenv: j.getenv, Exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
	}
	s.Terminal, s.Delegated = atTerminal(), delegated()
	if j.Launch, err = flake.Decide(o.Registration, o.Call, s); err != nil {
		return 0, err
	}
	if dir := flake.StateFolder(o.Registration); dir != "" {
		// Podman has no volume of a folder that is not there, as where there is no registry.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail(err)
		}
	}
	defer j.indicate()()
	switch o.Registration.Mode() {
	case flake.Resume:
		status, err = j.resume(ctx)
	case flake.Attach:
		status, err = j.attach(ctx)
	default:
		status, err = j.plain(ctx)
	}
	if err != nil && !j.started && j.interrupted() != 0 {
		status, err = j.interrupted(), nil
	}
	if err != nil {
		return fail(err)
	}
	j.die(status)
	return status, nil
}

// ending are the signals by which people and services end a command.
var ending = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// die ends this process as the application has ended: by a signal that both got. A shell
// that waits for it can tell this from an exit status, and stops its loop.
func (j *job) die(status int) {
	sig := syscall.Signal(status - 128)
	if j.got[sig] && slices.Contains(ending, os.Signal(sig)) {
		signal.Reset(sig)
		_ = syscall.Kill(os.Getpid(), sig)
		time.Sleep(time.Second) // until it has arrived
	}
}

// plain runs the application in a container of its own.
func (j *job) plain(ctx context.Context) (int, error) {
	var l *lockfile.Lock
	if j.Single {
		var err error
		if l, err = lockfile.Try(j.path(".lock")); errors.Is(err, lockfile.ErrBusy) {
			return 0, ErrBusy
		} else if err != nil {
			return 0, err
		}
		defer l.Drop()
	}
	image, err := j.image(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	w, err := j.watch(order{
		Remove: j.Launch.Podman("rm", "--force", "--time=0", "--ignore", j.Name), PidFile: j.pidFile, Files: []string{j.notifyFile()},
	}, l)
	if err != nil {
		return 0, err
	}
	end, err := j.run(j.Launch.Run(image), child{watch: w, pidFile: j.PidFile(), proxy: true})
	if err == nil && !end.killed && len(j.got) > 0 {
		// Podman that gets a signal while it makes a container may leave it, and say nothing.
		var left container
		left, err = j.inspect(context.WithoutCancel(ctx))
		if left.id != "" || readPid(j.PidFile()) == 0 {
			end.status, end.killed = j.interrupted(), true
		}
	}
	if err != nil || end.killed {
		return end.status, errors.Join(err, w.clean())
	}
	w.dismiss()
	return end.status, nil
}

// interrupted is the status of an application that a signal came before; 0 if none has.
func (j *job) interrupted() int {
	for {
		select {
		case sig := <-j.signals:
			j.got[sig.(syscall.Signal)] = true
			continue
		default:
		}
		break
	}
	if len(j.got) == 0 {
		return 0
	}
	return 128 + int(slices.Min(slices.Collect(maps.Keys(j.got))))
}

// attach starts the container of the application if need be, and attaches to it.
func (j *job) attach(ctx context.Context) (int, error) {
	l, err := lockfile.Take(j.path(".lock"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	have, err := j.inspect(ctx)
	if have.running && len(j.Call.Args) > 0 {
		j.Note("it runs already: the arguments are not for it")
	}
	if err == nil && have.id == "" {
		var image string
		if image, err = j.image(ctx); err == nil {
			err = j.quiet(ctx, j.Launch.Create(image))
		}
	}
	l.Close()
	if err != nil {
		return 0, err
	}
	end, err := j.run(j.Launch.StartAttached(), child{proxy: true})
	return end.status, errors.Join(err, j.remove(context.WithoutCancel(ctx)))
}

// image puts the container together and returns its name.
func (j *job) image(ctx context.Context) (string, error) {
	stores, err := j.stores(ctx)
	if err != nil {
		return "", err
	}
	return assemble.Ensure(ctx, j.Registration, assemble.Options{
		Store: stores, Podman: j.Engine, Env: j.env, Dir: j.Dir, Allowed: j.HostPaths,
		IgnoreHost: j.Call.IgnoreSyncError, Note: j.Note, Pull: j.pull, Guard: j.guard,
	})
}

// pull fetches an image that podman has not. One that is part of the system is there, or nowhere.
func (j *job) pull(ctx context.Context, name string) error {
	if j.Registration.Shipped {
		return fmt.Errorf("find container %s: it is not in the image", name)
	}
	var failed *command.Error
	if err := command.Run(ctx, j.command(j.Podman("image", "exists", name))); err == nil {
		return nil
	} else if !errors.As(err, &failed) || failed.Status != 1 {
		return fmt.Errorf("find container %s: %w", name, err)
	}
	j.Note("fetching container %s", name)
	o := fetch.Options{Name: name, Command: j.command(j.Podman("pull", name))}
	if j.Call.Progress {
		o.Stderr = os.Stderr
	}
	if err := fetch.Pull(ctx, o); err != nil {
		return err
	}
	stores, err := j.stores(ctx)
	if err != nil {
		return err
	}
	return stores.Sync()
}

// guard has a container and a folder removed when this process is killed.
func (j *job) guard(name, dir string) (gone func(), err error) {
	w, err := j.watch(order{Remove: j.Podman("rm", "--force", "--time=0", "--ignore", name), Folder: dir}, nil)
	if err != nil {
		return nil, err
	}
	return w.dismiss, nil
}

// quiet runs podman for what it does alone. What it says is in the error.
func (j *job) quiet(ctx context.Context, argv []string) error {
	j.Debug(argv)
	return command.Run(ctx, j.command(argv))
}

func (j *job) command(argv []string) command.Cmd {
	return command.Cmd{Argv: argv, Env: j.env}
}

// path is that of a file which belongs to the container.
func (j *job) path(ending string) string {
	return filepath.Join(j.Dir, flake.StateFile(j.Name, ending))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// container is what podman knows of one.
type container struct {
	id      string // empty: there is none
	running bool
	pid     int // of its first process, if it runs
}

// inspect asks podman for the container.
func (j *job) inspect(ctx context.Context) (container, error) {
	argv := j.Podman("container", "inspect", "--format", "{{.Id}} {{.State.Status}} {{.State.Pid}}", j.Name)
	j.Debug(argv)
	out, err := command.Output(ctx, j.command(argv))
	var failed *command.Error
	if errors.As(err, &failed) && strings.Contains(failed.StderrTail, "no such container") {
		return container{}, nil
	}
	if err != nil {
		return container{}, err
	}
	c, ok := parseContainer(string(out))
	if !ok {
		return container{}, fmt.Errorf("ask podman for container %s: it says %.100q", j.Name, out)
	}
	return c, nil
}

func parseContainer(text string) (c container, ok bool) {
	f := strings.Fields(text)
	if len(f) != 3 || !validID(f[0]) {
		return container{}, false
	}
	pid, err := strconv.Atoi(f[2])
	return container{f[0], f[1] == "running", pid}, err == nil && pid >= 0
}

// remove takes out a container that would stay, if the call says so.
func (j *job) remove(ctx context.Context) error {
	if !j.Call.Remove {
		return nil
	}
	l, err := lockfile.Take(j.path(".lock"))
	if err != nil {
		return err
	}
	defer l.Drop()
	return errors.Join(j.quiet(ctx, j.Podman("rm", "--force", "--time=0", "--ignore", j.Name)), removeIfThere(j.path(".cid")))
}
