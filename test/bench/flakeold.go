package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// What the older system runs for one start, in its order, by the same podman. Its sudo before
// each command is left out, and so is its own launcher: the commands alone are timed.

// oldRun is one start.
type oldRun struct {
	h      *flakeHost
	cid    string // file that podman writes the id to
	id     string
	failed error
}

// do runs a command unless one has failed before.
func (o *oldRun) do(ctx context.Context, argv ...string) {
	if o.failed == nil {
		o.failed = o.h.run(ctx, argv...)
	}
}

// ask does what may be answered with no, by status 1.
func (o *oldRun) ask(ctx context.Context, argv ...string) {
	var status interface{ ExitCode() int }
	if o.do(ctx, argv...); errors.As(o.failed, &status) && status.ExitCode() == 1 {
		o.failed = nil
	}
}

// read does what prints a line, and returns it.
func (o *oldRun) read(ctx context.Context, argv ...string) string {
	if o.failed != nil {
		return ""
	}
	var text string
	text, o.failed = o.h.output(ctx, argv...)
	return text
}

// create makes the container.
func (h *flakeHost) oldCreate(ctx context.Context) *oldRun {
	o := &oldRun{h: h, cid: filepath.Join(h.job.Dir, "old.cid")}
	// Podman removes it or not, by its version.
	if err := os.Remove(o.cid); err != nil && !errors.Is(err, os.ErrNotExist) {
		o.failed = err
	}
	o.do(ctx, "true")
	o.do(ctx, podman, "image", "prune", "--force")
	argv := append([]string{podman, "create", "--pull=newer", "--cidfile", o.cid}, given...)
	o.do(ctx, append(argv, "--entrypoint", "/bin/true", baseImage)...)
	if o.failed == nil {
		var text []byte
		text, o.failed = os.ReadFile(o.cid)
		o.id = strings.TrimSpace(string(text))
	}
	return o
}

// finish starts the container that was made, waits for its end and removes it.
func (o *oldRun) finish(ctx context.Context) error {
	o.do(ctx, podman, "ps", "--format", "{{.ID}}")
	o.do(ctx, podman, "container", "exists", o.id)
	o.do(ctx, podman, "start", "--attach", o.id)
	o.do(ctx, podman, "rm", "--force", o.id)
	return o.failed
}

func (h *flakeHost) oldPlain(ctx context.Context) error { return h.oldCreate(ctx).finish(ctx) }

// oldDelta copies the layer into the container first. Neither image has lists of files that
// were left out of it, which would take up to six more commands.
func (h *flakeHost) oldDelta(ctx context.Context) error {
	o := h.oldCreate(ctx)
	root := o.read(ctx, podman, "mount", o.id)
	o.ask(ctx, "test", "-e", root+"/systemfiles")
	o.ask(ctx, "test", "-e", root+"/removed")
	o.do(ctx, podman, "image", "exists", largeImage)
	layer := o.read(ctx, podman, "image", "mount", largeImage)
	o.ask(ctx, "test", "-e", layer+"/removed")
	o.do(ctx, "rsync", "-a", "-v", layer+"/", root+"/")
	o.do(ctx, podman, "image", "umount", largeImage)
	o.do(ctx, podman, "umount", o.id)
	return o.finish(ctx)
}

// oldResume starts a program in a container that runs. The older system always asks for a
// terminal.
func (h *flakeHost) oldResume(ctx context.Context) error {
	o := &oldRun{h: h, id: h.keep}
	o.do(ctx, "true")
	o.do(ctx, podman, "container", "exists", o.id)
	o.do(ctx, podman, "ps", "--format", "{{.ID}}")
	o.do(ctx, podman, "container", "exists", o.id)
	o.do(ctx, podman, "exec", "--interactive", "--tty", o.id, "/bin/true")
	return o.failed
}
