// Package image turns an image description into disk images: a Debian root from
// mmdebstrap, made independent of who builds it and when, as a signed slot image
// on a disk with boot loader and boot state.
//
// [Build] is the one call for them, [Container] and [BuildContainer] for containers on their
// own, whole or as a delta on another. The stages of Build are
//
//	root archive   mmdebstrap, kept in the cache by package list
//	root           normalised, EOS's files, the boot loader and the description laid over it, in memory
//	kernel image   initramfs with eos-init, bound to the build id
//	file system    squashfs of root and kernel image, kept in the cache by content
//	slot image     hash tree and signed manifest behind it
//	disk           ESP, GPT, and the formats asked for
//
// The build id is the hash of everything that goes into the root and the kernel
// image. Equal inputs (packages, description, programs, keys, tools) give an
// equal slot image, byte for byte; only packages that were published in between
// change it, and these come with [Options].Refresh alone. Times in the image are
// SOURCE_DATE_EPOCH, or else that of the newest file in a package.
//
// Nothing of the building machine gets into an image but what the description
// names. Only amd64 machines with UEFI are supported so far.
//
// Files in the output folder and the cache get their names when they are whole.
// Several builds may share a cache; two builds of one image into one folder at
// the same time are not supported.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/grub"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/imagestore"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/toolstree"
)

// Progress is told what the build is doing.
type Progress = cli.Progress

// Options says what to build and where.
type Options struct {
	Spec     *imagespec.Spec
	KeysDir  string   // where names of keys are looked up
	BinDir   string   // programs for the device; empty: folder of the running program
	OutDir   string   // made if it is missing
	CacheDir string   // empty: that of the tools tree
	SSHKeys  []string // lines of authorized_keys for root, used if Spec.Dev is set
	Refresh  bool     // fetch packages again
	Fresh    bool     // make the file system again though the cache has it
	Epoch    int64    // seconds; 0: SOURCE_DATE_EPOCH, else from the packages
	Progress Progress // may be nil
}

// Result names what was built.
type Result struct {
	Manifest  *slotimage.Manifest
	Outputs   []Output
	Timings   []Timing
	Initramfs int64 // bytes
}

// Output is a file that was built.
type Output struct {
	Kind string `json:"kind"` // slot, raw, zst, qcow2, sbom, manifest; oci of a container
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// Timing is how long a stage took.
type Timing struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// Path returns the file of a kind; empty if it was not built.
func (r *Result) Path(kind string) string {
	for _, o := range r.Outputs {
		if o.Kind == kind {
			return o.Path
		}
	}
	return ""
}

// firmwareDir is where the root has what is on the ESP besides slots and boot state,
// under the same names: a slot image is complete in itself.
const firmwareDir = "/usr/lib/eos/firmware"

// build is a build under way.
type build struct {
	Options
	tools  *toolstree.Tree
	dir    string // temporary
	epoch  time.Time
	init   []byte
	loader string // file with the boot loader
	signer key.Private
	in     inputs
	status string // packages in the image
	result Result
	began  time.Time
	stage  string
	layers imagestore.Layers // of containers; the root refers to them
	maker  maker             // of containers
	fleet  fleetParts

	containers []ReportContainer
}

// Build builds the image.
func Build(ctx context.Context, o Options) (*Result, error) {
	b := &build{Options: o}
	if b.Progress == nil {
		b.Progress = cli.NoProgress()
	}
	if o.Spec.Arch != "amd64" {
		return nil, fmt.Errorf("build image %s: architecture %s is not supported yet", o.Spec.Name, o.Spec.Arch)
	}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if err := b.run(ctx); err != nil {
		return nil, err
	}
	b.mark("")
	return &b.result, nil
}

// mark ends a stage and begins the next.
func (b *build) mark(stage string) {
	now := time.Now()
	if b.stage != "" {
		b.result.Timings = append(b.result.Timings, Timing{b.stage, now.Sub(b.began).Seconds()})
		b.Progress.Done()
	}
	b.stage, b.began = stage, now
	if stage != "" {
		b.Progress.Stage(stage, 0)
	}
}

// prepare gets everything that can be missing before the long work begins.
func (b *build) prepare(ctx context.Context) error {
	var err error
	if b.CacheDir == "" {
		if b.CacheDir, err = toolstree.CacheDir(); err != nil {
			return err
		}
	}
	if b.BinDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find device programs: %w", err)
		}
		b.BinDir = filepath.Dir(exe)
	}
	for _, dir := range []string{b.CacheDir, b.OutDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare build: %w", err)
		}
	}
	// The programs of the tools tree work in another folder.
	if b.OutDir, err = filepath.Abs(b.OutDir); err != nil {
		return fmt.Errorf("prepare build: %w", err)
	}
	if b.CacheDir, err = filepath.Abs(b.CacheDir); err != nil {
		return fmt.Errorf("prepare build: %w", err)
	}
	if err := b.loadKeys(); err != nil {
		return err
	}
	if b.init, err = b.program("eos-init"); err != nil {
		return err
	}
	names := []string{"os-update"}
	if b.Spec.Profile == imagespec.ProfileServer {
		names = append(names, serverPrograms...)
	}
	b.in.programs = map[string][]byte{}
	if b.Spec.Registry.Policy != imagespec.PolicyOff {
		if b.in.programs[registryProgram], err = b.program("flake-registry"); err != nil {
			return err
		}
		warnRegistry(b.Progress, b.Spec)
	}
	for _, name := range names {
		if b.in.programs["/usr/bin/"+name], err = b.program(name); err != nil {
			return err
		}
	}
	if err := b.loadFlakes(); err != nil {
		return err
	}
	if err := b.loadFleet(); err != nil {
		return err
	}
	b.in.spec, b.in.sshKeys = b.Spec, b.SSHKeys
	if b.tools, err = toolstree.Open(ctx, b.Progress.Note); err != nil {
		return err
	}
	b.dir, err = os.MkdirTemp(b.CacheDir, "build-")
	if err != nil {
		return fmt.Errorf("prepare build: %w", err)
	}
	return nil
}

func (b *build) program(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(b.BinDir, name))
	if err != nil {
		return nil, cli.Refuse(cli.Failure, fmt.Errorf("read device program: %w", err),
			"build the programs into one folder (make build), or name their folder with --bin")
	}
	return data, nil
}

// run does the stages in their order.
func (b *build) run(ctx context.Context) error {
	s := b.Spec
	b.mark("bootstrap")
	packages := slices.Sorted(slices.Values(s.Packages))
	archive, err := fetchRoot(ctx, b.CacheDir, bootstrap{
		Suite: s.Debian.Suite, Arch: s.Arch, Mirror: s.Debian.Mirror,
		Packages: slices.Compact(packages),
	}, b.Refresh)
	if err != nil {
		return err
	}
	b.mark("root")
	f, err := os.Open(archive.Path)
	if err != nil {
		return fmt.Errorf("read root archive: %w", err)
	}
	defer f.Close()
	t, err := readTree(f)
	if err != nil {
		return err
	}
	if b.epoch, err = pickEpoch(b.Epoch, archive, t); err != nil {
		return err
	}
	k, modules, err := b.root(ctx, t)
	if err != nil {
		return err
	}
	defer modules.Close()
	defer b.layers.Close()

	b.mark("kernel image")
	uki, report, err := k.build(ctx, b.tools, b.CacheDir, b.dir)
	if err != nil {
		return err
	}
	b.result.Initramfs = report.InitramfsBytes
	image, err := os.ReadFile(uki)
	if err != nil {
		return fmt.Errorf("read kernel image: %w", err)
	}
	t.write("/usr/lib/eos/uki.efi", 0o644, image)
	if err := t.writeAbout(s, k.buildID); err != nil {
		return err
	}
	t.clamp(b.epoch)
	if err := t.checkWhole(); err != nil {
		return err
	}

	b.mark("file system")
	digest, err := t.digest()
	if err != nil {
		return err
	}
	squashfs, err := squash(ctx, b.tools, t, digest, s.Squashfs.Level, b.epoch.Unix(), b.CacheDir, b.Fresh)
	if err != nil {
		return err
	}
	b.mark("slot image")
	slotPath := b.out(".slot")
	encoder, err := b.encoder()
	if err != nil {
		return err
	}
	b.result.Manifest, err = assemble(ctx, squashfs, slotPath, slotimage.Manifest{
		Name: s.Name, Class: s.Class, Arch: s.Arch, Version: s.Version, BuildID: k.buildID,
		SquashfsLevel: s.Squashfs.Level, Compressor: encoder, Built: b.epoch.Unix(),
	}, b.signer.Key)
	if err != nil {
		return err
	}
	if have, want := b.result.Manifest.ImageSize, s.Disk.Slot.Bytes(); have > want {
		return cli.Refuse(cli.Failure,
			fmt.Errorf("put image into its slot: it has %d MiB, the slot %d MiB", (have+mib-1)/mib, want/mib),
			"make disk.slot of the image description larger, or remove packages")
	}
	b.add("slot", slotPath)

	b.mark("disk image")
	if err := b.disks(ctx, uki, slotPath, slot.Image{Version: s.Version, BuildID: k.buildID}); err != nil {
		return err
	}
	b.mark("reports")
	prune(b.CacheDir)
	return b.reports(archive)
}

// root composes the root and returns what the kernel image is made of. Its
// modules are read from the returned file.
func (b *build) root(ctx context.Context, t *tree) (*kernel, *os.File, error) {
	s := b.Spec
	b.in.epoch = b.epoch
	version, err := t.kernelVersion()
	if err != nil {
		return nil, nil, err
	}
	image, err := t.read("/boot/vmlinuz-" + version)
	if err != nil {
		return nil, nil, err
	}
	status, err := t.read(dpkgDir + "/status")
	if err != nil {
		return nil, nil, err
	}
	gone, err := t.removePackages(removable, false)
	if err != nil {
		return nil, nil, err
	}
	more, err := t.removePackages(s.Remove.Packages, true)
	if err != nil {
		return nil, nil, err
	}
	b.status = filterStatus(string(status), append(gone, more...))
	t.normalise()
	modules, err := t.plainModules(ctx, b.tools, b.CacheDir, version)
	if err != nil {
		return nil, nil, err
	}
	t.volatileVar()
	t.write("/usr/share/eos/dpkg-status", 0o644, []byte(b.status))
	if err := t.compose(&b.in); err != nil {
		modules.Close()
		return nil, nil, err
	}
	t.removePaths(s.Remove.Paths)
	if err := b.addContainers(ctx, t); err != nil {
		modules.Close()
		return nil, nil, err
	}
	if err := b.addLoader(ctx, t); err != nil {
		modules.Close()
		return nil, nil, err
	}
	t.clamp(b.epoch)
	release, err := t.read("/usr/lib/os-release")
	if err != nil {
		modules.Close()
		return nil, nil, err
	}
	k := &kernel{
		version: version, image: image, commandLine: commandLine(s), release: release,
		init: b.init, modules: treeFS{t, "/usr/lib/modules/" + version}, epoch: b.epoch,
		keys: b.initKeys(),
	}
	k.buildID, err = b.buildID(t, k)
	if err != nil {
		modules.Close()
		return nil, nil, err
	}
	return k, modules, nil
}

// addLoader makes the boot loader, and puts it into the root.
func (b *build) addLoader(ctx context.Context, t *tree) error {
	b.loader = filepath.Join(b.dir, "grub.efi")
	if err := grub.Standalone(ctx, b.tools, b.loader); err != nil {
		return err
	}
	data, err := os.ReadFile(b.loader)
	if err != nil {
		return fmt.Errorf("read boot loader: %w", err)
	}
	t.write(firmwareDir+"/"+grub.Program, 0o644, data)
	return nil
}

// buildID hashes all that decides the bytes of the slot's file system.
func (b *build) buildID(t *tree, k *kernel) (string, error) {
	root, err := t.digest()
	if err != nil {
		return "", err
	}
	encoder, err := b.encoder()
	if err != nil {
		return "", err
	}
	stubSum, err := hashFile(b.tools.Path(stub))
	if err != nil {
		return "", fmt.Errorf("read kernel stub: %w", err)
	}
	s := b.Spec
	sum := func(data []byte) string { h := sha256.Sum256(data); return hex.EncodeToString(h[:]) }
	parts := []any{"EOS build 1", s.Name, s.Class, s.Arch, s.Version, hex.EncodeToString(root[:]),
		sum(k.image), sum(k.init), k.commandLine, stubSum, encoder, s.Squashfs.Level, b.epoch.Unix()}
	for _, key := range k.keys {
		parts = append(parts, key.Name, sum(key.PEM))
	}
	return keyOf(parts...), nil
}

// encoder names the compressor of the file system with its version, for those
// who want to make the same bytes again.
func (b *build) encoder() (string, error) {
	v, err := b.tools.Version("libzstd1")
	return "zstd-" + v, err
}

// pickEpoch returns the time that all files get: the one that is asked for, unless it is 0.
func pickEpoch(want int64, archive *rootArchive, t *tree) (time.Time, error) {
	if want != 0 {
		return time.Unix(want, 0).UTC(), nil
	}
	if text := os.Getenv("SOURCE_DATE_EPOCH"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return time.Time{}, fmt.Errorf("read SOURCE_DATE_EPOCH: %q is not a number of seconds", text)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	at := archive.sourceEpoch(t)
	if at.Unix() <= 0 {
		return time.Time{}, errors.New("find the time of the image: no file in it comes from a package")
	}
	return at, nil
}

func (b *build) out(suffix string) string {
	return filepath.Join(b.OutDir, b.Spec.BaseName()+suffix)
}

func (b *build) add(kind, path string) {
	o := Output{Kind: kind, Path: path}
	if fi, err := os.Stat(path); err == nil {
		o.Size = fi.Size()
	}
	b.result.Outputs = append(b.result.Outputs, o)
}
