// Package initramfs writes the initramfs of a slot's kernel image: eos-init, the
// kernel modules it may need, the keys it accepts and the build id it belongs to.
//
// Most callers need [Build] alone. The archive is a newc cpio, compressed with zstd, and
//
//	/init                      eos-init
//	/etc/eos/build-id          the only build whose slot this kernel image boots
//	/etc/eos/keys/NAME.pub     keys that may have signed the slot manifest
//	/usr/lib/modules/VERSION/  uncompressed modules, modules.dep, .alias, .builtin
//
// Everything is sorted and clamped to one time, so the same input gives the same bytes.
// There is no shell and no library in it, firmware files are not supported, and
// soft dependencies of modules are not followed.
//
// Build keeps no state: calls may run side by side. It writes to w as it goes;
// after an error what was written is not usable.
package initramfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
)

// Config says what goes into an initramfs.
type Config struct {
	// Init is the eos-init binary.
	Init []byte
	// Tree is the kernel's module tree, /usr/lib/modules/VERSION. Module files in
	// it may be plain or compressed with xz, zstd or gzip.
	Tree fs.FS
	// KernelVersion is that VERSION, the kernel's release name.
	KernelVersion string
	// Modules are wanted with all they depend on; nil for [DefaultModules].
	Modules []Module
	// Keys are the public key files to accept, at least one.
	Keys []Key
	// BuildID is the build that the kernel image belongs to.
	BuildID string
	// Epoch is the time of every file, in seconds since 1970.
	Epoch int64
}

// Key is a public key file in the format of package key.
type Key struct {
	Name string // without folder, ends in .pub
	PEM  []byte
}

// Report says what Build put in.
type Report struct {
	Modules  []string // module files, in the order of their names
	Builtin  []string // wanted modules that the kernel has built in
	Absent   []string // wanted modules that the tree does not have
	Unpacked int64    // bytes before compression
}

// Build writes the compressed initramfs to w.
func Build(w io.Writer, c Config) (*Report, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	set, err := selectModules(c.Tree, c.Modules)
	if err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	files := []file{
		{"init", 0o755, c.Init},
		{"etc/eos/build-id", 0o644, []byte(c.BuildID + "\n")},
	}
	for _, k := range c.Keys {
		files = append(files, file{"etc/eos/keys/" + k.Name, 0o644, k.PEM})
	}
	for _, f := range set.files {
		f.name = "usr/lib/modules/" + c.KernelVersion + "/" + f.name
		files = append(files, f)
	}
	// One encoder thread and a window that the kernel's decompressor always
	// accepts: the bytes must not depend on the machine.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	n, err := writeArchive(z, files, c.Epoch)
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	set.report.Unpacked = n
	return &set.report, nil
}

func (c Config) check() error {
	switch {
	case len(c.Init) == 0:
		return errors.New("no init binary")
	case c.Tree == nil:
		return errors.New("no module tree")
	case c.KernelVersion == "" || strings.ContainsAny(c.KernelVersion, "/ \n"):
		return fmt.Errorf("kernel version %q is not a file name", c.KernelVersion)
	case c.BuildID == "" || strings.ContainsAny(c.BuildID, " \n"):
		return fmt.Errorf("build id %q is not a word", c.BuildID)
	case len(c.Keys) == 0:
		return errors.New("no accepted key: eos-init would boot nothing")
	}
	seen := map[string]bool{}
	for _, k := range c.Keys {
		if path.Base(k.Name) != k.Name || !strings.HasSuffix(k.Name, ".pub") {
			return fmt.Errorf("key file name %q: want NAME.pub", k.Name)
		}
		if seen[k.Name] {
			return fmt.Errorf("key file name %q: given twice", k.Name)
		}
		seen[k.Name] = true
	}
	return nil
}

type file struct {
	name string
	mode cpio.FileMode
	data []byte
}

// emptyDirs are where eos-init mounts things.
var emptyDirs = []string{"dev", "proc", "run", "sys", "sysroot"}

// writeArchive writes the files and the folders they are in, and returns the
// archive's size. The console that init starts with is not in it: the kernel has an
// archive of its own with /dev/console, unpacked before this one.
func writeArchive(w io.Writer, files []file, epoch int64) (int64, error) {
	files = slices.Clone(files)
	dirs := map[string]bool{}
	for _, d := range emptyDirs {
		dirs[d] = true
	}
	for _, f := range files {
		for d := path.Dir(f.name); d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	for d := range dirs {
		files = append(files, file{d, cpio.TypeDir | 0o755, nil})
	}
	// By name, so that a folder comes before what is in it.
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })

	count := &counter{w: w}
	a := cpio.NewWriter(count)
	for _, f := range files {
		h := &cpio.Header{
			Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Links: 1, ModTime: time.Unix(epoch, 0),
		}
		if err := a.WriteHeader(h); err != nil {
			return 0, fmt.Errorf("%s: %w", f.name, err)
		}
		if _, err := a.Write(f.data); err != nil {
			return 0, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	err := a.Close()
	return count.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
