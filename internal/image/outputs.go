package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/registry/head"
	"github.com/OSInside/eos/internal/sbom"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// disks makes the disk image and the formats of it that are asked for.
func (b *build) disks(ctx context.Context, uki, slotPath string, image slot.Image) error {
	s := b.Spec
	disk := guid(image.BuildID, "disk")
	files, err := espFiles(ctx, b.tools, b.dir, b.loader, uki, disk, image, s.Disk.Slots, s.Registry.Policy, b.epoch)
	if err != nil {
		return fmt.Errorf("make EFI system partition: %w", err)
	}
	esp := filepath.Join(b.dir, "esp")
	if err := buildESP(ctx, b.tools, esp, s.Disk.ESP.Bytes(), image.BuildID, b.epoch, espDirs[:3+s.Disk.Slots], files); err != nil {
		return err
	}
	mark := ""
	if s.Registry.Policy != imagespec.PolicyOff {
		mark = filepath.Join(b.dir, "registry")
		if err := os.WriteFile(mark, head.Mark(disk), 0o644); err != nil {
			return fmt.Errorf("mark the registry as blank: %w", err)
		}
	}
	raw := b.out(".raw")
	if err := buildDisk(ctx, b.tools, raw, disk, image.BuildID, layout(s.Disk, esp, slotPath, mark)); err != nil {
		return err
	}
	if slices.Contains(s.Outputs, imagespec.OutputRaw) {
		b.add("raw", raw)
	} else {
		defer os.Remove(raw)
	}
	if slices.Contains(s.Outputs, imagespec.OutputZst) {
		out := b.out(".raw.zst")
		if err := b.convert(ctx, out, "zstd", "-q", "-f", "-T2", "-3", raw, "-o", out+".new"); err != nil {
			return err
		}
		b.add("zst", out)
	}
	if slices.Contains(s.Outputs, imagespec.OutputQcow2) {
		out := b.out(".qcow2")
		if err := b.convert(ctx, out, "qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, out+".new"); err != nil {
			return err
		}
		b.add("qcow2", out)
	}
	return nil
}

// convert runs a program that writes out.new, and gives that its name.
func (b *build) convert(ctx context.Context, out string, argv ...string) error {
	defer os.Remove(out + ".new")
	if err := command.Run(ctx, b.tools.Command(argv...)); err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(out), err)
	}
	return os.Rename(out+".new", out)
}

// Report is the build manifest NAME-VERSION.json.
type Report struct {
	Name         string              `json:"name"`
	Class        string              `json:"class"`
	Arch         string              `json:"arch"`
	Version      string              `json:"version"`
	Profile      string              `json:"profile"`
	BuildID      string              `json:"build_id"`
	Epoch        string              `json:"epoch"`
	Suite        string              `json:"suite"`
	Dev          bool                `json:"dev"`
	SignedBy     string              `json:"signed_by"`
	Accepts      []string            `json:"accepts"`
	Registry     string              `json:"registry"`
	Slots        int                 `json:"slots"`
	RootArchive  string              `json:"root_archive_sha256"`
	Initramfs    int64               `json:"initramfs_bytes"`
	SlotManifest *slotimage.Manifest `json:"slot_manifest"`
	SlotSHA256   string              `json:"slot_sha256"`
	Outputs      []Output            `json:"outputs"`
	Packages     int                 `json:"packages"`
	Containers   []ReportContainer   `json:"containers,omitempty"`
	Timings      []Timing            `json:"timings"`
}

// reports writes the bill of materials and the build manifest.
func (b *build) reports(archive *rootArchive) error {
	s, m := b.Spec, b.result.Manifest
	packages, err := sbom.Parse(b.status)
	if err != nil {
		return err
	}
	bill := sbom.Image{
		Name: s.Name, Version: s.Version, Arch: s.Arch, BuildID: m.BuildID,
		Suite: s.Debian.Suite, Built: b.epoch, Packages: packages,
	}
	programs := maps.Clone(b.in.programs)
	programs["/usr/lib/eos/uki.efi:/init"] = b.init
	for _, path := range sortedKeys(programs) {
		program, err := sbom.Modules(path, programs[path])
		if err != nil {
			return err
		}
		bill.Programs = append(bill.Programs, program)
	}
	sbomPath := b.out(".cdx.json")
	if err := writeFile(sbomPath, func(w io.Writer) error { return sbom.Write(w, bill) }); err != nil {
		return err
	}
	b.add("sbom", sbomPath)

	sum, err := hashFile(b.result.Path("slot"))
	if err != nil {
		return fmt.Errorf("read slot image: %w", err)
	}
	r := Report{
		Name: s.Name, Class: s.Class, Arch: s.Arch, Version: s.Version, Profile: s.Profile,
		BuildID: m.BuildID, Epoch: b.epoch.Format(time.RFC3339), Suite: s.Debian.Suite, Dev: s.Dev,
		SignedBy: b.signer.ID, Registry: s.Registry.Policy, Slots: s.Disk.Slots,
		RootArchive: archive.SHA256, Initramfs: b.result.Initramfs, SlotManifest: m,
		SlotSHA256: sum, Packages: len(packages), Containers: b.containers, Timings: b.result.Timings,
	}
	for _, k := range b.in.accept {
		r.Accepts = append(r.Accepts, k.ID)
	}
	for _, o := range b.result.Outputs {
		o.Path = filepath.Base(o.Path)
		r.Outputs = append(r.Outputs, o)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write build manifest: %w", err)
	}
	path := b.out(".json")
	if err := writeFile(path, func(w io.Writer) error { _, err := w.Write(append(text, '\n')); return err }); err != nil {
		return err
	}
	b.add("manifest", path)
	return nil
}

// kept is how many results of one kind stay in the cache. Container images have many layers.
var kept = map[string]int{
	"squashfs-": 6, "uki-": 6, "modules-": 6, "root-": 16, "layer-": 100, "image-": 50,
}

// prune removes the oldest results from the cache, and what an interrupted
// build left. Losing one of them only costs time, so errors do not matter.
func prune(cache string) {
	for prefix, most := range kept {
		type entry struct {
			path string
			at   time.Time
		}
		var all []entry
		found, _ := filepath.Glob(filepath.Join(cache, prefix+"*"))
		for _, p := range found {
			if fi, err := os.Stat(p); err == nil && !strings.HasSuffix(p, ".json") {
				all = append(all, entry{p, fi.ModTime()})
			}
		}
		slices.SortFunc(all, func(a, b entry) int { return b.at.Compare(a.at) })
		for i, e := range all {
			if i >= most && time.Since(e.at) > time.Hour {
				os.Remove(e.path)
			}
		}
	}
}
