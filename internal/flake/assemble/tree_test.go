package assemble

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// drawLayers makes random layers of a few names, the highest first.
func drawLayers(t *rapid.T, dir string) []string {
	var out []string
	for n := range rapid.IntRange(1, 4).Draw(t, "layers") {
		root := filepath.Join(dir, fmt.Sprint("l", n))
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 6).Draw(t, "files") {
			var names []string
			for range rapid.IntRange(1, 3).Draw(t, "depth") {
				names = append(names, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"))
			}
			file := filepath.Join(root, filepath.Join(names...))
			_ = os.MkdirAll(filepath.Dir(file), 0o755) // a file may be in the way: then there is one less
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				_ = os.WriteFile(file, []byte(fmt.Sprint(n)), 0o644)
			case 1:
				_ = os.Symlink(rapid.SampledFrom([]string{"a", "/b", "../a", "b/a", "..", "/", "none"}).Draw(t, "to"), file)
			case 2:
				_ = unix.Mknod(file, unix.S_IFCHR, 0) // a removal
			case 3:
				if os.MkdirAll(file, 0o755) == nil {
					_ = unix.Setxattr(file, "trusted.overlay.opaque", []byte("y"), 0)
				}
			case 4:
				_ = os.MkdirAll(file, 0o755)
			}
		}
		out = append(out, root)
	}
	return out
}

// resolved asks the kernel for a file of a tree which is the root folder.
func resolved(root, name string, how uint64) fs.FileInfo {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(dir)
	flags := uint64(unix.O_PATH)
	if how == unix.RESOLVE_NO_SYMLINKS {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: flags, Resolve: how})
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	return st
}

// What the layers have, and where links in them lead, is what the kernel makes of them.
func TestTreeIsOverlay(t *testing.T) {
	toolstreetest.NeedRoot(t)
	if os.Getenv("EOS_TEST_IN_NAMESPACE") == "" {
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestTreeIsOverlay$", "-test.v")
		cmd.Env = append(os.Environ(), "EOS_TEST_IN_NAMESPACE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS: TestTreeIsOverlay")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	top := t.TempDir()
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top, 0); err != nil {
			t.Error(err)
		}
	})
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		dir := filepath.Join(top, fmt.Sprint(count))
		roots := drawLayers(t, dir)
		merged := filepath.Join(dir, "merged")
		if err := errors.Join(os.MkdirAll(merged, 0o755), os.MkdirAll(dir+"/empty", 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(append(roots, dir+"/empty"), ":")); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(unix.Unmount(merged, 0), os.RemoveAll(dir)); err != nil {
				t.Fatal(err)
			}
		}()
		var chain []layer
		for _, r := range roots {
			chain = append(chain, layer{dir: r})
		}
		tr, err := openTree(chain)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.close()
		compare := func(call, name string, got fs.FileInfo, err error, want fs.FileInfo) {
			switch {
			case (err == nil) != (want != nil):
				t.Errorf("%s(%s) = %v, the kernel has it: %v", call, name, err, want != nil)
			case err == nil && (got.Mode() != want.Mode() || got.Mode().IsRegular() && !got.ModTime().Equal(want.ModTime())):
				t.Errorf("%s(%s) = %v of %v, the kernel says %v of %v", call, name, got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
			}
		}
		for _, name := range []string{"a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/b/a", "b/a/b", "b/b/b"} {
			// lstat is asked for names whose folders are none but folders.
			if st := resolved(merged, filepath.Dir(name), unix.RESOLVE_NO_SYMLINKS); st != nil && st.IsDir() {
				got, _, err := tr.lstat(name)
				compare("lstat", name, got, err, resolved(merged, name, unix.RESOLVE_NO_SYMLINKS))
			}
			got, err := tr.stat(name)
			compare("stat", name, got, err, resolved(merged, name, unix.RESOLVE_IN_ROOT))
		}
	})
}
