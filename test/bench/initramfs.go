package main

import (
	"bytes"
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/vm"
)

// kernelParts are the parts of an image's unified kernel image, as files, and the modules that
// belong to it.
type kernelParts struct {
	Kernel, Initrd string
	CommandLine    string
	Modules        string // folder with VERSION in it
	Version        string
}

// takeApart unpacks what the slot image boots with.
func (l *lab) takeApart(ctx context.Context, image *built) (*kernelParts, error) {
	dir := filepath.Join(l.scratch, "parts")
	if err := command.Run(ctx, l.tree.Command("unsquashfs", "-quiet", "-no-progress", "-d", dir, image.Slot,
		"usr/lib/eos/uki.efi", "usr/lib/modules")); err != nil {
		return nil, err
	}
	uki, err := pe.Open(filepath.Join(dir, "usr/lib/eos/uki.efi"))
	if err != nil {
		return nil, fmt.Errorf("read kernel image: %w", err)
	}
	defer uki.Close()
	section := func(name string) ([]byte, error) {
		s := uki.Section(name)
		if s == nil {
			return nil, fmt.Errorf("read kernel image: no section %s", name)
		}
		data, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("read kernel image: section %s: %w", name, err)
		}
		return data[:min(len(data), int(s.VirtualSize))], nil
	}
	p := &kernelParts{
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
		Modules: filepath.Join(dir, "usr/lib/modules"),
	}
	for name, file := range map[string]string{".linux": p.Kernel, ".initrd": p.Initrd} {
		data, err := section(name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return nil, err
		}
	}
	for name, word := range map[string]*string{".cmdline": &p.CommandLine, ".uname": &p.Version} {
		data, err := section(name)
		if err != nil {
			return nil, err
		}
		*word = strings.TrimSpace(strings.TrimRight(string(data), "\x00"))
	}
	return p, nil
}

// measureInitramfs compares eos-init with dracut: the same kernel, the same slot on the same
// disk, the same hash tree checked by the same kernel code.
func measureInitramfs(ctx context.Context, l *lab) error {
	image, err := l.old(ctx, "1.0.0")
	if err != nil {
		return err
	}
	p, err := l.takeApart(ctx, image)
	if err != nil {
		return err
	}
	other, err := l.dracut(ctx, p)
	if err != nil {
		return err
	}
	ours, err := contents(p.Initrd)
	if err != nil {
		return err
	}
	theirs, err := contents(other)
	if err != nil {
		return err
	}
	l.add(size("initramfs, compressed", ours.size).with("dracut", size("", theirs.size)))
	l.add(size("initramfs, unpacked", ours.unpacked).with("dracut", size("", theirs.unpacked)))
	l.add(count("kernel modules in it", ours.modules, "modules").with("dracut", count("", theirs.modules, "modules")))
	l.add(count("files in it", ours.files, "files").with("dracut", count("", theirs.files, "files")))

	eosWords, dracutWords, err := rootWords(image)
	if err != nil {
		return err
	}
	// systemd says "Switching root." to the journal only; just before, it ends the journal, which
	// says so to the kernel's log.
	var mine, its handOver
	for i := range l.runs {
		l.note("boot with either initramfs, %d of %d", i+1, l.runs)
		c := vm.Config{Image: image.Raw, Kernel: p.Kernel, Initrd: p.Initrd, Append: p.CommandLine + " " + eosWords}
		if err := l.handOver(ctx, c, `eos-init: slot a version .* switching root`, 1, &mine); err != nil {
			return err
		}
		c.Initrd, c.Append = other, p.CommandLine+" "+dracutWords
		if err := l.handOver(ctx, c, `systemd-journald\[\d+\]: Received SIGTERM from PID 1`, 2, &its); err != nil {
			return fmt.Errorf("dracut: %w", err)
		}
	}
	l.add(seconds("kernel: unpacking it, to Run /init", mine.unpacked...).with("dracut", seconds("", its.unpacked...)))
	l.add(seconds("Run /init to switch root", mine.switched...).with("dracut", seconds("", its.switched...)))
	l.add(seconds("Run /init to the root's systemd", mine.started...).with("dracut", seconds("", its.started...)))
	return nil
}

// rootWords are the command lines by which eos-init and systemd's own generators find and check
// the root in slot a of the image.
func rootWords(image *built) (eos, dracut string, err error) {
	f, err := os.Open(image.Raw)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", "", err
	}
	table, err := gpt.Read(f, fi.Size())
	if err != nil {
		return "", "", err
	}
	p, err := table.ByName("p.lxreadonly")
	if err != nil {
		return "", "", err
	}
	block, err := slotimage.ReadBlock(io.NewSectionReader(f, p.Start, p.Size), p.Size)
	if err != nil {
		return "", "", err
	}
	m := block.Unverified() // we have built it
	where := "PARTUUID=" + strings.ToLower(p.GUID)
	dracut = strings.Join([]string{
		"root=/dev/mapper/root", "rootfstype=squashfs",
		"roothash=" + m.RootHash.String(),
		"systemd.verity_root_data=" + where, "systemd.verity_root_hash=" + where,
		fmt.Sprintf("systemd.verity_root_options=superblock=no,format=1,hash=sha256,data-block-size=%[1]d,hash-block-size=%[1]d,data-blocks=%[2]d,hash-offset=%[3]d,salt=%[4]s",
			slotimage.BlockSize, m.DataBlocks(), m.TreeOffset(), m.Salt),
	}, " ")
	return "eos.slot=a eos.disk=" + strings.ToLower(table.DiskGUID), dracut, nil
}

// handOver are times of several boots.
type handOver struct {
	unpacked []time.Duration // kernel's start to Run /init
	switched []time.Duration // Run /init to the last word of the initramfs
	started  []time.Duration // Run /init to systemd's first word, of the systemd in the root
}

// handOver boots once, until the root's systemd has begun. With systemd in the initramfs that
// is the second.
func (l *lab) handOver(ctx context.Context, c vm.Config, last string, systemd int, h *handOver) error {
	g, err := l.start(ctx, c)
	if err != nil {
		return err
	}
	defer g.end()
	_, unpack, err := g.awaitKernel(ctx, `(?:Unpacking initramfs|Trying to unpack rootfs image)`)
	if err != nil {
		return err
	}
	_, began, err := g.awaitKernel(ctx, `Run /init as init process`)
	if err != nil {
		return err
	}
	const starts = `systemd\[1\]: systemd .* running in system mode`
	for range systemd - 1 {
		if _, _, err := g.awaitKernel(ctx, starts); err != nil {
			return err
		}
	}
	_, switched, err := g.awaitKernel(ctx, last)
	if err != nil {
		return err
	}
	_, started, err := g.awaitKernel(ctx, starts)
	if err != nil {
		return err
	}
	h.unpacked = append(h.unpacked, began-unpack)
	h.switched = append(h.switched, switched-began)
	h.started = append(h.started, started-began)
	return nil
}

// archive is what is in an initramfs.
type archive struct {
	size, unpacked, files, modules int64
}

// contents reads an initramfs that is one cpio archive, compressed with zstd.
func contents(path string) (*archive, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read initramfs %s: %w", path, err)
	}
	defer z.Close()
	a := &archive{size: int64(len(data))}
	r := cpio.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read initramfs %s: %w", path, err)
		}
		if !h.Mode.IsRegular() {
			continue
		}
		a.files++
		a.unpacked += h.Size
		name, _, _ := strings.Cut(filepath.Base(h.Name), ".ko")
		if name != filepath.Base(h.Name) {
			a.modules++
		}
	}
}
