// Package kerneltest gives tests a real kernel with its modules: Debian's cloud kernel, the
// one that images are built with.
//
// The one call is [Open]. The kernel is fetched once and cached beside the tools
// tree; no package's scripts are run, only the files are unpacked. Remove the
// folder from the cache to get a newer one. Tests in several processes may ask
// for it at once.
package kerneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// Kernel is a kernel on disk.
type Kernel struct {
	Version string // release name
	Image   string // path of the bzImage
	Modules string // path of its module tree, .../usr/lib/modules/VERSION, as depmod left it
}

// Open returns the kernel, after fetching it where the cache has none.
func Open(tb testing.TB) *Kernel {
	tb.Helper()
	tools := toolstreetest.Open(tb)
	k, err := open(tb.Context(), tools)
	if err != nil {
		tb.Fatalf("get a kernel to test with: %v", err)
	}
	return k
}

func open(ctx context.Context, tools *toolstree.Tree) (*Kernel, error) {
	cache, err := toolstree.CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "test-kernel-"+toolstree.Suite)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := fetch(ctx, tools, dir); err != nil {
			return nil, err
		}
	}
	return find(dir)
}

func find(dir string) (*Kernel, error) {
	found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d kernels in %s, want 1", len(found), dir)
	}
	version := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	return &Kernel{version, found[0], filepath.Join(dir, "usr/lib/modules", version)}, nil
}

// fetch unpacks the kernel's package beside dir, and renames it to dir when it is whole.
func fetch(ctx context.Context, tools *toolstree.Tree, dir string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	var said bytes.Buffer
	bootstrap := exec.CommandContext(ctx, "mmdebstrap", "--variant=extract", "--include=linux-image-cloud-amd64",
		`--aptopt=APT::Install-Recommends "false"`, toolstree.Suite, "-")
	bootstrap.Stderr = &said
	unpack := exec.CommandContext(ctx, "tar", "-x", "--no-same-owner", "-C", tmp, "--wildcards",
		"./boot/vmlinuz-*", "./usr/lib/modules/*")
	unpack.Stderr = &said
	if unpack.Stdin, err = bootstrap.StdoutPipe(); err != nil {
		return err
	}
	if err := bootstrap.Start(); err != nil {
		return err
	}
	if err := errors.Join(unpack.Run(), bootstrap.Wait()); err != nil {
		return fmt.Errorf("fetch kernel: %w: %s", err, strings.TrimSpace(said.String()))
	}
	k, err := find(tmp)
	if err != nil {
		return err
	}
	// depmod is otherwise run by the package's scripts, in a root with this link.
	if err := os.Symlink("usr/lib", filepath.Join(tmp, "lib")); err != nil {
		return err
	}
	if err := command.Run(ctx, tools.Command("depmod", "-b", tmp, k.Version)); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}
