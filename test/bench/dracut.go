package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
)

// dracutPackages are what a dracut needs whose initramfs opens a dm-verity root by itself.
var dracutPackages = []string{
	"cpio", "dmsetup", "dracut-core", "kmod", "systemd", "systemd-cryptsetup", "systemd-sysv", "udev", "zstd",
}

// dracutOptions ask for what a distribution would ship: an image for any machine. Of the
// microcode, which eos-init's does not have, there is none.
var dracutOptions = []string{
	"--no-hostonly", "--no-hostonly-cmdline", "--no-early-microcode", "--zstd", "--force",
	"--add", "systemd-veritysetup", "--add-drivers", "squashfs dm-verity",
}

// dracut returns dracut's initramfs for the kernel and its very modules, from the cache or made
// in a Debian root that is then gone again.
func (l *lab) dracut(ctx context.Context, p *kernelParts) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, "dracut 1", p.Version, strings.Join(dracutPackages, " "), strings.Join(dracutOptions, " "))
	sum, err := os.ReadFile(filepath.Join(p.Modules, p.Version, "modules.dep"))
	if err != nil {
		return "", fmt.Errorf("make dracut's initramfs: %w", err)
	}
	h.Write(sum)
	out := filepath.Join(l.dir, fmt.Sprintf("dracut-%x.img", h.Sum(nil)[:8]))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	l.note("making dracut's initramfs (once for a kernel, some minutes)")
	tmp := filepath.Join(l.scratch, "dracut")
	if err := os.MkdirAll(tmp, 0o777); err != nil {
		return "", fmt.Errorf("make dracut's initramfs: %w", err)
	}
	quoted := make([]string, len(dracutOptions))
	for i, o := range dracutOptions {
		quoted[i] = "'" + o + "'"
	}
	log, err := os.Create(filepath.Join(l.dir, "dracut.log"))
	if err != nil {
		return "", fmt.Errorf("make dracut's initramfs: %w", err)
	}
	defer log.Close()
	// Without root, mmdebstrap is another user: what it reads and writes goes through its hooks.
	err = command.Run(ctx, command.Cmd{Stderr: log, Argv: []string{
		"mmdebstrap", "--variant=essential", "--format=null",
		"--include=" + strings.Join(dracutPackages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		`--customize-hook=mkdir -p "$1/usr/lib/modules"`,
		"--customize-hook=sync-in " + p.Modules + " /usr/lib/modules",
		"--customize-hook=chroot \"$1\" depmod " + p.Version,
		"--customize-hook=chroot \"$1\" dracut " + strings.Join(quoted, " ") + " --kver " + p.Version + " /initrd.img",
		"--customize-hook=copy-out /initrd.img " + tmp,
		toolstree.Suite, "-",
	}})
	if err != nil {
		return "", fmt.Errorf("make dracut's initramfs: %w (%s has all it said)", err, log.Name())
	}
	data, err := os.ReadFile(filepath.Join(tmp, "initrd.img"))
	if err == nil {
		err = os.WriteFile(out+".new", data, 0o644)
	}
	if err == nil {
		err = os.Rename(out+".new", out)
	}
	if err != nil {
		return "", fmt.Errorf("make dracut's initramfs: %w", err)
	}
	return out, nil
}
