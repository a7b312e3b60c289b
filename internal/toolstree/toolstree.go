// Package toolstree makes and caches a Debian root that holds the exact build
// and test tools (mksquashfs, ukify, GRUB, QEMU and their like), and runs
// programs from it, so the host needs none of them.
//
// The two calls most callers need are [Open], which returns the tree and makes
// it first where the cache has none, and [Tree.Command], which turns an
// argument list into a command that runs inside the tree:
//
//	tree, err := toolstree.Open(ctx, nil)
//	err = command.Run(ctx, tree.Command("mksquashfs", dir, image))
//
// A program from the tree sees the tree's /usr and, for everything else, the
// host: files are given and written under their ordinary paths, except that
// paths below /usr other than /usr/local mean the tree's. The mount is private
// to the process and gone with it.
//
// The tree is keyed by the package list and the suite: another list is another
// tree. It is filled beside its final name and renamed, under a lock, so an
// interrupted or a parallel run never leaves half a tree. A tree once made is
// not refreshed; remove it from the cache to get newer packages.
//
// It is not a sandbox: programs run with the caller's rights.
package toolstree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
)

// Suite is the Debian release the tools come from. The encoder in mksquashfs
// decides the bytes of an image, so it is one fixed suite whatever is built.
const Suite = "trixie"

// Packages returns the names of the Debian packages that the tree is made of.
func Packages() []string {
	return []string{
		"casync",             // measured against in benchmarks
		"cpio",               // oracle for the initramfs archive
		"cryptsetup-bin",     // veritysetup: oracle for the hash tree
		"dosfstools",         // mkfs.vfat, fsck.vfat
		"dracut-core",        // measured against in benchmarks
		"fdisk",              // sfdisk
		"grub-common",        // grub-mkstandalone, grub-editenv
		"grub-efi-amd64-bin", // GRUB's modules for UEFI
		"kmod",               // depmod
		"mtools",             // files into FAT without a mount
		"nginx-light",        // measured against in benchmarks
		"openssh-client",     // ssh into a virtual machine
		"openssh-server",     // a server that devices fetch from, in tests
		"ovmf",               // UEFI firmware for QEMU
		"podman",             // checks signatures of container images, which that of older hosts cannot
		"qemu-system-x86",
		"qemu-utils",     // qemu-img
		"squashfs-tools", // sqfstar, unsquashfs
		"swtpm",          // a TPM for virtual machines
		"swtpm-tools",
		"systemd-boot-efi", // the EFI stub of unified kernel images
		"systemd-ukify",
		"wrk",      // load for benchmarks
		"xdelta3",  // measured against in benchmarks
		"xfsprogs", // oracle for what the registry does to its file system
		"xz-utils",
		"zstd",
	}
}

// A Tree is a tools tree on disk.
type Tree struct {
	dir string
}

// ErrNoMaker says that there is no tree in the cache and the host has no
// mmdebstrap to make one.
var ErrNoMaker = errors.New("mmdebstrap is not installed (apt-get install mmdebstrap)")

// CacheDir returns the folder for everything that can be made again:
// $EOS_CACHE, or eos in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("EOS_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w (set EOS_CACHE)", err)
	}
	return filepath.Join(dir, "eos"), nil
}

// Open returns the tools tree from the cache, after making it there when it is
// missing. Progress, when not nil, is told in one line what takes the time.
func Open(ctx context.Context, progress func(format string, args ...any)) (*Tree, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "tools-"+key(Suite, Packages()))
	t := &Tree{dir: dir}
	if isComplete(dir) {
		return t, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make tools tree: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if isComplete(dir) {
		return t, nil
	}
	if progress != nil {
		progress("making the tools tree in %s (once, about a minute)", dir)
	}
	if err := fill(ctx, dir); err != nil {
		return nil, fmt.Errorf("make tools tree: %w", err)
	}
	return t, nil
}

// key names a tree by what it is made of.
func key(suite string, packages []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "eos tools tree 1\n%s\n", suite)
	for _, p := range packages {
		fmt.Fprintln(h, p)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// isComplete reports whether dir is a whole tree. A tree gets its final name
// only when it is whole, so a folder of that name is enough.
func isComplete(dir string) bool {
	fi, err := os.Stat(filepath.Join(dir, "usr/bin"))
	return err == nil && fi.IsDir()
}

// lock takes an exclusive lock on path and returns the call that gives it back.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock tools tree: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		// The goroutine owns the file until the lock arrives; the process is
		// about to end, which closes both.
		return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
	}
}

// Path returns the host path of p, an absolute path inside the tree.
func (t *Tree) Path(p string) string { return filepath.Join(t.dir, p) }

// Has reports whether the tree holds a file at p, an absolute path inside it.
func (t *Tree) Has(p string) bool {
	_, err := os.Lstat(t.Path(p))
	return !errors.Is(err, fs.ErrNotExist)
}

// script lays the tree's /usr over the host's and becomes the program. The
// host's /usr/local stays visible, callers may keep their files there.
// Variables that make programs load other code or pick other answers are
// dropped: the same command gives the same bytes on every host.
const script = `tree=$1; shift
[ ! -d /usr/local ] || mount --rbind /usr/local "$tree/usr/local" || exit 125
mount --rbind "$tree/usr" /usr || exit 125
mount --bind "$tree/etc/ld.so.cache" /etc/ld.so.cache || exit 125
[ ! -d /etc/alternatives ] || mount --bind "$tree/etc/alternatives" /etc/alternatives || exit 125
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH PYTHONHOME PERL5LIB MTOOLSRC XZ_DEFAULTS XZ_OPT ZSTD_CLEVEL ZSTD_NBTHREADS
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC PYTHONDONTWRITEBYTECODE=1 MTOOLS_SKIP_CHECK=1
exec "$@"`

// Command returns the command that runs argv from the tree. The process that
// is started becomes the program itself, so signals reach it.
func (t *Tree) Command(argv ...string) command.Cmd {
	run := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		run = append(run, "--map-root-user")
	}
	run = append(run, "sh", "-c", script, "sh", t.dir)
	return command.Cmd{Argv: append(run, argv...)}
}

// String names the tree in messages.
func (t *Tree) String() string { return strings.TrimSuffix(t.dir, "/") }

// Version returns the version of a package in the tree.
func (t *Tree) Version(name string) (string, error) {
	status, err := os.ReadFile(t.Path("/var/lib/dpkg/status"))
	if err != nil {
		return "", fmt.Errorf("find the version of %s in the tools tree: %w", name, err)
	}
	for record := range strings.SplitSeq(string(status), "\n\n") {
		if !strings.HasPrefix(record, "Package: "+name+"\n") {
			continue
		}
		for line := range strings.Lines(record) {
			if v, ok := strings.CutPrefix(line, "Version: "); ok {
				return strings.TrimSpace(v), nil
			}
		}
	}
	return "", fmt.Errorf("find the version of %s in the tools tree: no such package", name)
}
