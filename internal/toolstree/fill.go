package toolstree

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fill makes the tree in a folder beside dir and renames it to dir. The
// root travels as a tar stream and is unpacked by the caller, so that its
// files belong to the caller also when mmdebstrap works in a user namespace.
func fill(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return ErrNoMaker
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bootstrap := exec.CommandContext(ctx, "mmdebstrap",
		"--variant=essential",
		"--include="+strings.Join(Packages(), ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		Suite, "-")
	unpack := exec.CommandContext(ctx, "tar", "-x", "--no-same-owner",
		"--exclude=./dev/*", "-C", tmp)
	for _, cmd := range []*exec.Cmd{bootstrap, unpack} {
		// mmdebstrap must be asked to stop: it has mounts to take down.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
	}
	var said, complaint bytes.Buffer
	bootstrap.Stderr, unpack.Stderr = &said, &complaint
	if unpack.Stdin, err = bootstrap.StdoutPipe(); err != nil {
		return err
	}
	if err := bootstrap.Start(); err != nil {
		return err
	}
	unpackErr := unpack.Run()
	if unpackErr != nil {
		cancel()
	}
	if err := bootstrap.Wait(); err != nil && unpackErr == nil {
		return fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(said.String(), 5))
	}
	if unpackErr != nil {
		return fmt.Errorf("unpack tools: %w: %s", unpackErr, lastLines(complaint.String(), 2))
	}
	return os.Rename(tmp, dir)
}

// lastLines returns the last n lines of s, joined into one.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
