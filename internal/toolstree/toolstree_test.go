package toolstree

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyDependsOnSuiteAndPackages(t *testing.T) {
	base := key("trixie", []string{"a", "b"})
	for _, tt := range []struct {
		suite    string
		packages []string
	}{
		{"sid", []string{"a", "b"}},
		{"trixie", []string{"a"}},
		{"trixie", []string{"a", "b", "c"}},
		{"trixie", []string{"ab"}},
	} {
		if got := key(tt.suite, tt.packages); got == base {
			t.Errorf("key(%q, %q) = %q, want another key than that of trixie a b", tt.suite, tt.packages, got)
		}
	}
	if got := key("trixie", []string{"a", "b"}); got != base {
		t.Errorf("key is not stable: %q, want %q", got, base)
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("EOS_CACHE", "/somewhere/eos")
	if got, err := CacheDir(); err != nil || got != "/somewhere/eos" {
		t.Errorf("CacheDir() = %q, %v, want /somewhere/eos", got, err)
	}
	t.Setenv("EOS_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/home/x/.cache")
	if got, err := CacheDir(); err != nil || got != "/home/x/.cache/eos" {
		t.Errorf("CacheDir() = %q, %v, want /home/x/.cache/eos", got, err)
	}
}

func TestOpenWithoutMaker(t *testing.T) {
	t.Setenv("EOS_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	_, err := Open(context.Background(), nil)
	if err == nil || !strings.Contains(err.Error(), "mmdebstrap is not installed") {
		t.Fatalf("Open without mmdebstrap: %v, want the name of the missing program", err)
	}
}

func TestOpenHonoursCancel(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("EOS_CACHE", cache)
	path := filepath.Join(cache, "tools-"+key(Suite, Packages())+".lock")
	unlock, err := lock(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, nil); err == nil {
		t.Fatal("Open under a lock that another holds returned, want the context's error")
	}
}

// TestCommand runs real programs from the real tree: this is the call that
// every build and every virtual machine stands on.
func TestCommand(t *testing.T) {
	tree, err := Open(context.Background(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	run := func(argv ...string) string {
		t.Helper()
		cmd := tree.Command(argv...)
		var out, complaint bytes.Buffer
		c := exec.Command(cmd.Argv[0], cmd.Argv[1:]...)
		c.Stdout, c.Stderr = &out, &complaint
		if err := c.Run(); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, complaint.String())
		}
		return out.String()
	}
	for _, tt := range []struct {
		argv []string
		want string
	}{
		{[]string{"mksquashfs", "-version"}, "mksquashfs version 4."},
		{[]string{"qemu-system-x86_64", "--version"}, "version 10."},
		{[]string{"ukify", "--version"}, "ukify 257"},
		{[]string{"sfdisk", "--version"}, "sfdisk"},
		{[]string{"cat", "/usr/lib/os-release"}, "VERSION_CODENAME=trixie"},
	} {
		if got := run(tt.argv...); !strings.Contains(got, tt.want) {
			t.Errorf("%q printed %q, want %q in it", tt.argv, got, tt.want)
		}
	}
	for _, p := range []string{
		"/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
		"/usr/lib/systemd/boot/efi/addonx64.efi.stub",
		"/usr/share/OVMF/OVMF_CODE_4M.fd",
		"/usr/lib/grub/x86_64-efi/hashsum.mod",
	} {
		if !tree.Has(p) {
			t.Errorf("tree has no %s", p)
		}
	}

	// Files of the caller are seen and written under their own names.
	file := filepath.Join(t.TempDir(), "out")
	run("sh", "-c", "echo written > "+file)
	if got, err := os.ReadFile(file); err != nil || string(got) != "written\n" {
		t.Errorf("file written from the tree = %q, %v, want written", got, err)
	}
	// And the host keeps its own programs.
	if _, err := os.Stat("/usr/lib/grub/x86_64-efi/hashsum.mod"); err == nil {
		t.Log("the host has GRUB's modules itself; cannot tell whether the mount leaked")
	}
	t.Setenv("PYTHONHOME", "/nonexistent")
	if got := run("ukify", "--version"); !strings.Contains(got, "ukify") {
		t.Errorf("ukify under a foreign PYTHONHOME printed %q", got)
	}
}
