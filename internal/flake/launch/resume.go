package launch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake/lockfile"
)

// resume starts the application in the container that stays.
//
// In most calls that runs: then two files of the runtime say so, and the runtime is all that is
// started. Otherwise, under the lock, podman is asked, and starts or makes it. A container
// may end between the look and the start: then it is looked for again.
func (j *job) resume(ctx context.Context) (int, error) {
	for range 5 {
		id, err := j.running(ctx)
		if errors.Is(err, errGone) {
			time.Sleep(100 * time.Millisecond) // somebody is removing it
			continue
		}
		if err != nil {
			return 0, err
		}
		status, err := j.enter(ctx, id)
		if errors.Is(err, errGone) {
			if err := removeIfThere(j.path(".cid")); err != nil {
				return 0, err
			}
			continue
		}
		return status, errors.Join(err, j.remove(context.WithoutCancel(ctx)))
	}
	return 0, errors.New("its container ends as soon as it is started")
}

// errGone says that a container has ended.
var errGone = errors.New("the container has ended")

// running returns the id of the container, which runs.
func (j *job) running(ctx context.Context) (string, error) {
	cid := j.path(".cid")
	if id := readID(cid); id != "" && loadState(id) != nil {
		return id, nil
	}
	l, err := lockfile.Take(j.path(".lock"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	if id := readID(cid); id != "" && loadState(id) != nil {
		return id, nil // somebody else has started it
	}
	have, err := j.inspect(ctx)
	if err != nil {
		return "", err
	}
	id, err := j.start(ctx, have)
	if err != nil {
		return "", err
	}
	return id, renameio.WriteFile(cid, []byte(id), 0o600)
}

// start makes or starts the container. It is not disturbed: podman that is leaves parts.
func (j *job) start(ctx context.Context, have container) (id string, err error) {
	if have, err = j.whole(ctx, have); err != nil {
		return "", err
	}
	var image string
	if have.id == "" {
		if image, err = j.image(ctx); err != nil {
			return "", err
		}
	}
	ctx = context.WithoutCancel(ctx)
	switch {
	case have.id == "":
		err = j.quiet(ctx, j.Keep(image))
	case !have.running:
		err = j.quiet(ctx, j.Podman("start", j.Name))
	}
	now, failed := j.inspect(ctx)
	switch {
	case failed != nil:
		return "", errors.Join(err, failed)
	case now.id == "" && have.id != "":
		j.end(ctx, have.id)
		return "", errGone
	case err != nil:
		return "", sleepless(err)
	case now.id == "":
		return "", errGone
	case !now.running:
		return "", errors.New("its container does not stay: it needs the program sleep")
	}
	return now.id, nil
}

// noticed is how long podman has to notice that a container has ended.
const noticed = 5 * time.Second

// whole takes out a container that was killed together with what podman has beside it: podman
// takes it for one that runs, and neither starts nor stops it any more. One that is about to end is
// waited for, and never taken out: what was written in it stays.
func (j *job) whole(ctx context.Context, have container) (container, error) {
	broken := func() bool { return have.id != "" && have.pid > 0 && startTime(have.pid) == 0 }
	ending := func() bool {
		_, ending := readStat(have.pid)
		return have.id != "" && have.pid > 0 && ending
	}
	for deadline := time.Now().Add(noticed); (broken() || ending()) && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
		var err error
		if have, err = j.inspect(ctx); err != nil {
			return have, err
		}
	}
	switch {
	case ending():
		return have, errGone
	case !broken():
		return have, nil
	}
	j.Note("its container was killed and is made anew; what was written in it is gone")
	o := order{Remove: j.Podman("rm", "--force", "--time=0", "--ignore", j.Name), child: -1}
	return container{}, o.do(j.env)
}

// end ends a container that podman has forgotten, as it may one that is started while it is
// removed.
func (j *job) end(ctx context.Context, id string) {
	prefix, ok := within()
	if ok && loadState(id) != nil {
		_ = j.quiet(ctx, append(prefix, crun, "delete", "--force", id)) // what is left is podman's
	}
}

// sleepless says what is missing in a container that cannot stay.
func sleepless(err error) error {
	var failed *command.Error
	if errors.As(err, &failed) && failed.Status == 127 {
		return fmt.Errorf("a container that stays needs the program sleep: %w", err)
	}
	return err
}

func readID(file string) string {
	text, err := os.ReadFile(file)
	if id := strings.TrimSpace(string(text)); err == nil && validID(id) {
		return id
	}
	return ""
}

// state is what crun notes of a container, as its version 1.8 does.
type state struct {
	Pid    int    `json:"pid"`
	Start  uint64 `json:"process-start-time"` // in clock ticks after the start of the system
	Bundle string `json:"bundle"`
}

// loadState reads it; nil if the container does not run, or another runtime runs it.
func loadState(id string) *state {
	text, err := os.ReadFile(filepath.Join(runtimeDir(), "crun", id, "status"))
	if err != nil {
		return nil
	}
	s := parseState(text)
	if s == nil {
		return nil
	}
	if start, ending := readStat(s.Pid); start != s.Start || ending {
		return nil
	}
	return s
}

// parseState reads what crun notes; nil if that names no process.
func parseState(text []byte) *state {
	var s state
	if json.Unmarshal(text, &s) != nil || s.Pid <= 1 || s.Start == 0 {
		return nil
	}
	return &s
}

// startTime returns when a process was started, as /proc/PID/stat has it; 0 if there is none.
func startTime(pid int) uint64 {
	start, _ := readStat(pid)
	return start
}

func readStat(pid int) (start uint64, ending bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	return parseStat(string(text))
}

// Alive tells whether there is a process which has not ended.
func Alive(pid int) bool { return pid > 0 && startTime(pid) != 0 }

// exiting is the flag PF_EXITING of Linux: a process that has it runs none of its own code any more,
// but may be there for a while, as the first one of a container that waits for the others.
const exiting = 0x4

// parseStat takes from /proc/PID/stat when a process was started, 0 of one that has ended, and
// whether it is about to end.
func parseStat(stat string) (start uint64, ending bool) {
	fields := statFields(stat)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	start, _ = strconv.ParseUint(fields[19], 10, 64)
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	return start, flags&exiting != 0
}

// crun is the runtime.
const crun = "/usr/bin/crun"

// within begins a command line that is run where this user's containers are: for all but root
// that is a namespace, which podman keeps by a process that does nothing. It is nil if there is
// none.
func within() (argv []string, ok bool) {
	if os.Geteuid() == 0 {
		return nil, true
	}
	pid := readPid(filepath.Join(runtimeDir(), "libpod/tmp/pause.pid"))
	if pid == 0 {
		return nil, false
	}
	return []string{"/usr/bin/nsenter", "--target", strconv.Itoa(pid), "--user", "--mount", "--"}, true
}

// enter starts the application in a container that runs. It does not need podman for it.
func (j *job) enter(ctx context.Context, id string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s := loadState(id)
	prefix, ok := within()
	if s == nil || !ok {
		return j.enterByPodman(ctx)
	}
	base := filepath.Base(j.pidFile)
	process, log := filepath.Join(j.Dir, base+".process"), filepath.Join(j.Dir, base+".log")
	text, err := j.process(s.Bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errGone // podman removes it meanwhile
	}
	if err != nil {
		return 0, err
	}
	w, err := j.watch(order{Kill: true, Within: prefix, Space: pidNamespace(s.Pid), PidFile: j.pidFile, Files: []string{process, log}}, nil)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(process, text, 0o600); err != nil {
		w.dismiss()
		return 0, err
	}
	argv := append(prefix, crun, "--log="+log, "exec", "--process="+process, "--pid-file="+j.pidFile, id)
	end, err := j.run(argv, child{watch: w, pidFile: j.pidFile, guest: true})
	if end.killed {
		return end.status, w.clean()
	}
	started := readPid(j.pidFile) != 0
	why, _ := os.ReadFile(log)
	w.dismiss()
	if err != nil || started {
		return end.status, err
	}
	return notStarted(string(why), loadState(id) != nil)
}

// notStarted is the status that podman has for an application that the runtime did not start,
// or what went wrong. The runtime has said why.
func notStarted(why string, runs bool) (int, error) {
	switch {
	case !runs, strings.Contains(why, "No such process"):
		return 0, errGone
	case strings.Contains(why, "No such file or directory"), strings.Contains(why, "not found"):
		return 127, nil
	case strings.Contains(why, "ermission denied"), strings.Contains(why, "not permitted"), strings.Contains(why, "s a directory"):
		return 126, nil
	}
	return 0, fmt.Errorf("start it in its container: %s", cmp.Or(strings.TrimSpace(why), "the runtime does not say why"))
}

// enterByPodman starts the application where the runtime is not crun.
func (j *job) enterByPodman(ctx context.Context) (int, error) {
	if have, err := j.inspect(ctx); err != nil || !have.running {
		return 0, errors.Join(err, errGone)
	}
	end, err := j.run(j.Exec(), child{})
	return end.status, err
}

// process is the application as the runtime specification of the OCI describes a process: that
// of the container, with another command and terminal.
func (j *job) process(bundle string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var config struct {
		Process map[string]any `json:"process"`
	}
	if err := json.Unmarshal(text, &config); err != nil || config.Process == nil {
		return nil, fmt.Errorf("read configuration of the container: %w", errors.Join(err, errors.New("it has no process")))
	}
	p := config.Process
	p["args"], p["terminal"] = j.Command(), j.Terminal
	delete(p, "consoleSize")
	if j.Terminal {
		if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			p["consoleSize"] = map[string]any{"height": size.Row, "width": size.Col}
		}
		if term := j.getenv("TERM"); term != "" {
			env, _ := p["env"].([]any)
			env = slices.DeleteFunc(env, func(e any) bool { s, ok := e.(string); return ok && strings.HasPrefix(s, "TERM=") })
			p["env"] = append(env, "TERM="+term)
		}
	}
	return json.Marshal(p)
}
