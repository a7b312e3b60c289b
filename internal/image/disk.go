package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/toolstree"
)

const (
	mib        = 1 << 20
	sectorSize = 512

	typeESP  = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	typeRoot = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" // root file system, x86-64
	typeData = "0FC63DAF-8483-4772-8E79-3D69D8477DE4" // Linux file system data
)

// namespace makes the UUIDs of disks and partitions from what is on them.
var namespace = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("eos.osinside.github.com"))

func guid(buildID, what string) string {
	return uuid.NewSHA1(namespace, []byte(buildID+"\x00"+what)).String()
}

// A partition of the disk image.
type partition struct {
	name, typ   string
	start, size int64  // bytes
	attrs       string // as sfdisk has them
	content     string // file to fill it with; empty: zeros
}

// layout places the partitions one after the other, on whole MiBs.
func layout(d imagespec.Disk, esp, slotA, registry string) []partition {
	const keepOff = "GUID:63" // not for systemd's own discovery
	parts := []partition{
		{name: "p.UEFI", typ: typeESP, size: d.ESP.Bytes(), content: esp},
		{name: "p.lxreadonly", typ: typeRoot, size: d.Slot.Bytes(), attrs: keepOff, content: slotA},
	}
	if d.Slots > 1 {
		parts = append(parts, partition{name: "p.lxrootclone1", typ: typeRoot, size: d.Slot.Bytes(), attrs: keepOff})
	}
	if d.Registry > 0 {
		parts = append(parts, partition{name: "p.spare", typ: typeData, size: d.Registry.Bytes(), attrs: keepOff, content: registry})
	}
	at := int64(mib)
	for i := range parts {
		parts[i].start = at
		parts[i].size = (parts[i].size + mib - 1) / mib * mib
		at += parts[i].size
	}
	return parts
}

// script is the input of sfdisk.
func script(diskGUID, buildID string, parts []partition) string {
	var b strings.Builder
	fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\nunit: sectors\nsector-size: %d\nfirst-lba: 2048\n\n", diskGUID, sectorSize)
	for _, p := range parts {
		fmt.Fprintf(&b, "start=%d, size=%d, type=%s, uuid=%s, name=%q",
			p.start/sectorSize, p.size/sectorSize, p.typ, guid(buildID, p.name), p.name)
		if p.attrs != "" {
			fmt.Fprintf(&b, ", attrs=%q", p.attrs)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// buildDisk writes the sparse disk image out.
func buildDisk(ctx context.Context, tools *toolstree.Tree, out, diskGUID, buildID string, parts []partition) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make disk image: %w", err)
		}
	}()
	tmp := out + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	defer func() { err = errors.Join(err, f.Close()) }()
	last := parts[len(parts)-1]
	if err := f.Truncate(last.start + last.size + mib); err != nil {
		return err
	}
	cmd := tools.Command("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", tmp)
	cmd.Stdin = strings.NewReader(script(diskGUID, buildID, parts))
	if err := command.Run(ctx, cmd); err != nil {
		return err
	}
	for _, p := range parts {
		if p.content == "" {
			continue
		}
		if err := fill(f, p); err != nil {
			return err
		}
	}
	return os.Rename(tmp, out)
}

func fill(f *os.File, p partition) error {
	src, err := os.Open(p.content)
	if err != nil {
		return err
	}
	defer src.Close()
	n, err := copySparse(f, p.start, src)
	if err != nil {
		return fmt.Errorf("fill partition %s: %w", p.name, err)
	}
	if n > p.size {
		return fmt.Errorf("fill partition %s: %d bytes do not fit into %d", p.name, n, p.size)
	}
	return nil
}
