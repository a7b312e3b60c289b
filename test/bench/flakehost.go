package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
)

// podman is what flakes are set beside, and started with.
const podman = flake.Podman

const apps = flake.Dir + "/bin" // commands of flakes

// flakeHost is a device of mounts of this process: programs and flakes in a /usr of its own,
// an empty /run, a podman with a store of its own.
type flakeHost struct {
	job  flakeJob
	null *os.File
	said *os.File // what the program that was run last has said
	stay []int    // children that are no leftovers
	keep string   // id of the container that stays
}

func newFlakeHost(ctx context.Context, job flakeJob) (*flakeHost, error) {
	h := &flakeHost{job: job}
	if err := h.prepare(ctx); err != nil {
		return nil, fmt.Errorf("prepare host: %w", err)
	}
	for _, step := range []func(context.Context) error{h.images, h.register, h.start} {
		if err := step(ctx); err != nil {
			h.close()
			return nil, fmt.Errorf("prepare host: %w", err)
		}
	}
	return h, nil
}

// close ends what runs, and waits for it. Mounts go with this process.
func (h *flakeHost) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = h.run(ctx, podman, "rm", "--all", "--force", "--time=0") // its folder goes anyhow
	h.stay = nil
	_ = h.settle(ctx)
}

// containersConf has no control groups: not every host has them for a podman in a corner of it.
const containersConf = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
`

// prepare makes the mounts, which are this process's alone, and podman's settings.
func (h *flakeHost) prepare(ctx context.Context) error {
	dir := h.job.Dir
	for _, name := range []string{"usr/bin", "usr/share/flakes/bin", "work", "store"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{filepath.Base(registration.Pilot), "flake-ctl"} {
		data, err := os.ReadFile(filepath.Join(h.job.Bin, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "usr/bin", name), data, 0o755); err != nil {
			return err
		}
	}
	storage := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = \"/run/containers/storage\"\n", dir+"/store")
	for name, text := range map[string]string{"CONTAINERS_CONF": containersConf, "CONTAINERS_STORAGE_CONF": storage} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o644), os.Setenv(name, file)); err != nil {
			return err
		}
	}
	var err error
	if h.null, err = os.Open(os.DevNull); err != nil {
		return err
	}
	if h.said, err = os.OpenFile(filepath.Join(dir, "said"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	// The old control groups may be mounted below.
	if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount control groups: %w", err)
	}
	layers := fmt.Sprintf("lowerdir=/usr,upperdir=%s/usr,workdir=%s/work", dir, dir)
	for _, m := range []struct{ kind, at, data string }{
		{"cgroup2", "/sys/fs/cgroup", ""}, {"overlay", "/usr", layers}, {"tmpfs", "/run", "mode=755"}, {"tmpfs", "/dev/shm", "mode=1777"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// given are the options of all flakes here, and of what is set beside them.
var given = []string{"--interactive", "--network=none"}

// register makes the flakes, each with one program.
func (h *flakeHost) register(ctx context.Context) error {
	for _, f := range []struct {
		name, image, target string
		more                []string
	}{
		{"plain", baseImage, "/bin/true", nil},
		{"cat", baseImage, "/bin/cat", nil},
		{"large", largeImage, "/bin/true", []string{"--base", baseImage}},
		{"small", smallImage, "/bin/true", []string{"--base", baseImage}},
		{"keep", baseImage, "/bin/true", []string{"--resume"}},
		{"keepcat", baseImage, "/bin/cat", []string{"--resume"}},
	} {
		argv := append([]string{"/usr/bin/flake-ctl", "podman", "register", "--app", app(f.name), "--container", f.image, "--target", f.target}, f.more...)
		for _, o := range given {
			argv = append(argv, "--opt", `\`+o)
		}
		if err := h.run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// app is the command of a flake.
func app(name string) string { return filepath.Join(apps, name) }

// start starts the containers that stay. What watches them is no leftover.
func (h *flakeHost) start(ctx context.Context) error {
	if err := h.run(ctx, app("keep")); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, app("keepcat"))
	cmd.Stdin = h.null
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start %s: %w: %s", app("keepcat"), err, out)
	}
	id, err := h.output(ctx, podman, "container", "inspect", "--format", "{{.Id}}", flake.ContainerName("keep", ""))
	if err != nil {
		return err
	}
	h.keep = id
	time.Sleep(time.Second) // until what ends has ended
	for _, pid := range h.left() {
		if program(pid) == "conmon" {
			h.stay = append(h.stay, pid)
		}
	}
	if len(h.stay) != 2 {
		return fmt.Errorf("find conmon of the two containers that stay: there are %d", len(h.stay))
	}
	return h.settle(ctx)
}

// flakePatience is how long anything may take that is run here: podman that hangs ends the run.
const flakePatience = 2 * time.Minute

// run runs a program to its end, with nothing to read and a file for what it says.
func (h *flakeHost) run(ctx context.Context, argv ...string) error {
	ctx, cancel := context.WithTimeout(ctx, flakePatience)
	defer cancel()
	if err := h.said.Truncate(0); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = h.null, h.said, h.said
	if err := cmd.Run(); err != nil {
		text, _ := io.ReadAll(io.NewSectionReader(h.said, 0, 4000))
		return fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), errors.Join(err, ctx.Err()), bytes.TrimSpace(text))
	}
	return nil
}

// output is run for what the program says.
func (h *flakeHost) output(ctx context.Context, argv ...string) (string, error) {
	if err := h.run(ctx, argv...); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(h.said, 0, 1<<20))
	return strings.TrimSpace(string(text)), err
}
