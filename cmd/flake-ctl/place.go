package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/fetch"
	"github.com/OSInside/eos/internal/flake/launch"
	"github.com/OSInside/eos/internal/flake/registration"
	"github.com/OSInside/eos/internal/flake/sweep"
	"github.com/OSInside/eos/internal/flake/unit"
	"github.com/OSInside/eos/internal/flake/unit/systemd"
	"github.com/OSInside/eos/internal/registrystate"
)

// place is where the program finds things; tests give others.
type place struct {
	dir, shipped, registry string
	systemConf             string   // storage.conf of the system's podman; empty: podman's own choice
	memory                 string   // podman's store in memory
	storageConf            []string // settings of podman's store, the first that is there counts
	running                string   // where launchers keep what they know
	young                  time.Duration
	system                 systemd.Manager // systemd, and for a user that of the user
	uid                    int
	login, home            string
	chroot                 bool     // the root is one that is being built, not that of the system
	podman                 []string // its command line
	patience               time.Duration
}

func thisPlace() (place, error) {
	config, err := flake.LoadConfig(flake.ConfigFile)
	if err != nil {
		return place{}, err
	}
	at := place{
		dir: config.Dir, systemConf: config.StorageConf, shipped: flake.ShippedDir, registry: registrystate.File, memory: flake.InMemory()[1],
		storageConf: []string{"/etc/containers/storage.conf", "/usr/share/containers/storage.conf"}, running: launch.Folder(), young: sweep.Young,
		uid: os.Getuid(), login: "root", home: "/root", chroot: inChroot(), podman: []string{flake.Podman}, patience: fetch.Patience,
	}
	if at.uid == 0 {
		at.system = systemUnits(at.chroot)
		return at, nil
	}
	u, err := user.LookupId(strconv.Itoa(at.uid))
	if err != nil {
		return at, fmt.Errorf("find the caller: %w", err)
	}
	at.login, at.home, at.system = u.Username, u.HomeDir, userUnits(u.HomeDir)
	return at, nil
}

// systemUnits are those of the system. /etc and /usr are read-only where it runs: links to
// units are made anew at each start of the system. In a root that is being built they become
// part of the image.
func systemUnits(chroot bool) systemd.Manager {
	s := systemd.Manager{
		Dir: "/run/systemd/system", Systemctl: []string{"/usr/bin/systemctl"},
		Path: []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"},
	}
	if chroot {
		s.Dir = "/usr/lib/systemd/system"
		return s
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // as sd_booted(3) says
		s.Dir = "" // made by us, it would say so too
		return s
	}
	s.Running = true
	return s
}

// userUnits are those of the caller.
func userUnits(home string) systemd.Manager {
	dir := filepath.Join(home, ".config/systemd/user")
	_, err := os.Stat(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "systemd/private"))
	return systemd.Manager{
		Dir: dir, User: true, Running: err == nil, Systemctl: []string{"/usr/bin/systemctl", "--user"},
		Path: []string{dir, "/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"},
	}
}

// inChroot tells whether the root of this process is another than that of process 1. Where
// nothing is mounted at /proc, it is a folder.
func inChroot() bool {
	var ours, first syscall.Stat_t
	if syscall.Stat("/", &ours) != nil {
		return false
	}
	err := syscall.Stat("/proc/1/root", &first)
	return errors.Is(err, fs.ErrNotExist) || err == nil && (ours.Dev != first.Dev || ours.Ino != first.Ino)
}

// where is what a command works on.
type where struct {
	dir     string // registrations
	shipped string // those of the image; none for a user
	runas   string
	storage string // storage.conf of podman; empty: its own choice
}

// configFile is that of a user.
func (at place) configFile() string { return filepath.Join(at.home, ".config/flakes.yml") }

// where says what to work on. Root has no flakes of its own: --user says nothing then.
//
// The folder of the system's flakes is a link into the registry, so it takes a registry to
// change anything. In a root that is being built it leads to where the registry will be
// mounted: what is registered there becomes a part of the image.
func (a *app) where(isUser bool) (where, error) {
	if isUser && a.at.uid != 0 {
		return a.whereUser()
	}
	w := where{dir: a.at.dir, shipped: a.at.shipped, runas: a.at.login, storage: a.at.systemConf}
	st, err := os.Lstat(w.dir)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return w, nil
	}
	if a.at.chroot {
		w.dir = a.at.shipped
		return w, nil
	}
	if s := registrystate.Load(a.at.registry); !s.OK {
		w.dir = ""
		return w, fmt.Errorf("open registrations in %s: %w (%s)", a.at.dir, flake.ErrNoRegistry, s.Reason)
	}
	return w, nil
}

func (a *app) whereUser() (where, error) {
	path := a.at.configFile()
	text, err := os.ReadFile(path)
	if err != nil {
		return where{}, cli.Refuse(cli.Failure, fmt.Errorf("read settings of the caller's flakes: %w", err), "flake-ctl init --user makes them")
	}
	c, err := flake.ParseConfig(path, text, true)
	if err != nil {
		return where{}, err
	}
	return where{dir: c.Dir, runas: a.at.login, storage: c.StorageConf}, nil
}

// podman is a call of it, for the flakes of w.
func (a *app) podman(w where, args ...string) command.Cmd {
	c := command.Cmd{Argv: append(append([]string{}, a.at.podman...), args...)}
	if w.storage != "" {
		c.Env = []string{"CONTAINERS_STORAGE_CONF=" + w.storage}
	}
	return c
}

// open locks the registrations of w, and says what an earlier run has left.
func (a *app) open(ctx context.Context, w where) (*registration.Store, error) {
	s, err := registration.Open(ctx, w.dir, registration.Hooks{
		Stop: func(name string) error {
			err := a.at.system.Stop(ctx, w.dir, name)
			if err != nil {
				a.note("stop unit %s: %v", unit.File(name), err)
			}
			return err
		},
		Forget: func(name, repository string) error { return a.forget(ctx, w, name, repository) },
	})
	if err != nil {
		return nil, err
	}
	for _, left := range s.Left {
		a.note("%v", left)
	}
	return s, nil
}

// coded gives an error its exit code, and says what can be done.
func coded(err error) error {
	var c *cli.Error
	switch {
	case err == nil || errors.As(err, &c):
		return err
	case errors.Is(err, flake.ErrNoRegistry):
		return cli.Refuse(cli.Degraded, err, "flake-registry --status says what is wrong and what to do")
	case errors.Is(err, registration.ErrOptions):
		return cli.Refuse(cli.Usage, err, "")
	case errors.Is(err, systemd.ErrInTheWay):
		return cli.Refuse(cli.Refused, err, "give the unit another name")
	case errors.Is(err, registration.ErrInTheWay):
		return cli.Refuse(cli.Refused, err, "--force replaces and removes flakes, and never touches another file")
	case errors.Is(err, registration.ErrLocked):
		return cli.Refuse(cli.Locked, err, "")
	case errors.Is(err, registration.ErrNotRegistered):
		return cli.Refuse(cli.Failure, err, "flake-ctl list shows those that are")
	case errors.Is(err, fs.ErrPermission):
		return cli.Refuse(cli.Failure, err, "the system's flakes are root's; --user is for your own")
	case errors.Is(err, syscall.EROFS):
		return cli.Refuse(cli.Failure, err, "the system is read-only: put commands in "+flake.Dir+"/bin")
	}
	return err
}
