package assemble

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/OSInside/eos/internal/command"
)

// Patience is how long the script of an image may take.
const Patience = time.Minute

// signs are files of the host that change when what is installed does.
var signs = []string{"/usr/share/eos/build.json", "/etc/ld.so.cache", "/var/lib/dpkg/status"}

// systemFiles runs the script of an image that prints what it wants of the host, or reads
// what it has printed in this boot on the same system.
func (o *Options) systemFiles(ctx context.Context, script []byte) ([]string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q\n", script, o.Allowed)
	for _, s := range signs {
		if st, err := os.Stat(s); err == nil {
			note(h, s, st)
		}
	}
	memory := filepath.Join(o.Dir, fmt.Sprintf("systemfiles-%x", h.Sum(nil)))
	out, err := os.ReadFile(memory)
	if errors.Is(err, fs.ErrNotExist) {
		if out, err = o.confined(ctx, script); err == nil {
			err = renameio.WriteFile(memory, out, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	return parseList(out)
}

// confined runs the script where it can do no harm: a root folder with nothing but the
// allowed folders of the host, no network, nobody's rights.
func (o *Options) confined(ctx context.Context, script []byte) ([]byte, error) {
	patience := o.Patience
	if patience == 0 {
		patience = Patience
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it takes longer than %s", patience))
	defer cancel()
	dir, err := os.MkdirTemp(o.Dir, "systemfiles-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.Guard != nil {
		gone, err := o.Guard(filepath.Base(dir), dir)
		if err != nil {
			return nil, err
		}
		defer gone()
	}
	argv := []string{
		"run", "--rm", "--interactive", "--name", filepath.Base(dir), "--network=none", "--read-only", "--cap-drop=all", "--user=65534:65534",
		"--security-opt=no-new-privileges", "--log-driver=none", "--no-hosts", "--hostname=host", "--env=PATH=/usr/bin:/bin",
		fmt.Sprintf("--timeout=%d", int(patience.Seconds())+10), // also if nobody is there any more to end it
	}
	root := filepath.Join(dir, "root")
	// With the name of the folder comes the mode of the root.
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(root, 0o755)); err != nil {
		return nil, err
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if target, err := os.Readlink("/" + link); err == nil {
			if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range o.Allowed {
		real, err := filepath.EvalSymlinks(a)
		if err != nil || strings.ContainsAny(real, ":,") {
			continue
		}
		argv = append(argv, "--volume", real+":"+a+":ro")
	}
	argv = append(argv, "--entrypoint=/bin/sh", "--rootfs", root, "-s")
	c := o.command(slices.Clone(argv)...)
	c.Stdin = strings.NewReader(string(script))
	out, err := command.Output(ctx, c)
	if err != nil && ctx.Err() != nil {
		rm := o.command("rm", "--force", "--time=0", "--ignore", filepath.Base(dir))
		err = errors.Join(err, command.Run(context.WithoutCancel(ctx), rm))
	}
	if err == nil && len(out) > maxList {
		err = fmt.Errorf("it prints more than %d bytes", maxList)
	}
	return out, err
}
