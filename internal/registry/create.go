package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/registry/head"
)

// How long making and opening may take: a boot waits for neither for good.
const (
	makeLimit = 5 * time.Minute
	openLimit = 90 * time.Second
)

// sealPCRs are the TPM's registers that a key is sealed to: 7, the state of Secure Boot and whose
// keys it trusts. An update of the OS does not change it, nor does kexec. See docs/threat-model.md.
const sealPCRs = "7"

// luksFormat returns the command that makes a LUKS2 header in a file for a device. The key has full
// entropy, so that there is nothing for a slow derivation to protect.
func luksFormat(header, dev string) []string {
	const metadata = 16 << 10
	return []string{
		"cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode",
		"--header", header, "--key-file", secretPath,
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--luks2-metadata-size", strconv.Itoa(metadata), "--luks2-keyslots-size", strconv.Itoa(head.Size - 2*metadata),
		"--offset", strconv.Itoa(head.Size / sector), "--label", Partition, "--subsystem", "eos",
		dev,
	}
}

// mkfs returns the command that makes the file system. Its features are those of Linux 6.1, so that
// a rollback to an older kernel still opens it.
func mkfs(dev string) []string {
	return []string{"mkfs.xfs", "-q", "-f", "-K", "-c", "options=/usr/share/xfsprogs/mkfs/lts_6.1.conf", "-L", "eos-registry", dev}
}

// create makes a registry on dev, which is known to be for that: everything but the first sector
// comes first, the head from a file in memory. fill is called with the mounted file system before
// the registry counts.
func (s *System) create(ctx context.Context, dev string, fill func(root string) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	tmp, err := os.MkdirTemp(filepath.Dir(StateFile), "registry-new-") // in memory
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	headFile := filepath.Join(tmp, "head")
	if err := os.WriteFile(headFile, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(headFile, head.Size); err != nil {
		return err
	}
	make := s.makeLUKS
	if s.Config.Policy == PolicyNone {
		make = s.makePlain
	}
	if err := make(ctx, dev, headFile, func(mapped string) error { return format(ctx, mapped, tmp, fill) }); err != nil {
		return err
	}
	content, err := os.ReadFile(headFile)
	if err != nil {
		return err
	}
	if s.Config.Policy != PolicyNone && dev == s.Device.Registry {
		if err := s.keepCopy(content); err != nil {
			return err
		}
	}
	return commit(dev, content)
}

// makeLUKS makes a header in a file, seals it as the policy says, proves that it opens that
// way, and has the file system made.
func (s *System) makeLUKS(ctx context.Context, dev, headFile string, format func(mapped string) error) error {
	key, err := s.firstKey()
	if err != nil {
		return err
	}
	defer key.Close()
	if err := key.run(ctx, luksFormat(headFile, dev)...); err != nil {
		return fmt.Errorf("make LUKS2 header: %w", err)
	}
	if s.Config.Policy == PolicyTPM2 {
		if err := key.run(ctx, sealCommand(headFile, "password")...); err != nil {
			return fmt.Errorf("seal the registry's key to the TPM: %w", err)
		}
	}
	const name = "eos-registry-new"
	detach(ctx, name) // what a killed run left
	if err := s.attach(ctx, name, dev, headFile); err != nil {
		return fmt.Errorf("open the new registry as later boots will: %w", err)
	}
	defer detach(context.WithoutCancel(ctx), name)
	return format("/dev/mapper/" + name)
}

// sealCommand seals a LUKS2 device to the TPM and removes the key slots of a kind. The key it is opened with is in
// the file at secretPath.
func sealCommand(dev, wipe string) []string {
	return []string{"systemd-cryptenroll", "--unlock-key-file=" + secretPath, "--tpm2-device=auto", "--tpm2-pcrs=" + sealPCRs, "--wipe-slot=" + wipe, dev}
}

// firstKey is the key that a new header is made with: a new one of this device alone. With the policy keyfile
// it is the one on the boot partition, which is written there if there is none.
func (s *System) firstKey() (*secret, error) {
	if s.Config.Policy != PolicyKeyfile {
		k, _, err := randomSecret()
		return k, err
	}
	if k, err := s.espKey(); err == nil || !errors.Is(err, errNoKey) {
		return k, err
	}
	k, key, err := randomSecret()
	if err != nil {
		return nil, err
	}
	content := make([]byte, esp.RegistryKeySize)
	copy(content, keyMagic)
	copy(content[len(keyMagic):], key)
	if err := s.onESP(true, func(v *esp.Volume) error { return v.WriteFixed(esp.RegistryKey, content) }); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// makePlain has the file system made on a device whose head is the file and whose rest is dev.
func (s *System) makePlain(ctx context.Context, dev, headFile string, format func(mapped string) error) error {
	size, err := sizeOf(dev)
	if err != nil {
		return err
	}
	loop, err := output(ctx, "losetup", "--find", "--show", headFile)
	if err != nil {
		return fmt.Errorf("make the file system's head: %w", err)
	}
	defer func() { _, _ = output(context.WithoutCancel(ctx), "losetup", "--detach", loop) }()
	const name = "eos-registry-new"
	_, _ = output(ctx, "dmsetup", "remove", name) // what a killed run left
	const headSectors = head.Size / sector
	table := fmt.Sprintf("0 %d linear %s 0\n%d %d linear %s %d\n", headSectors, loop, headSectors, size/sector-headSectors, dev, headSectors)
	if _, err := output(ctx, "dmsetup", "create", name, "--table", table); err != nil {
		return fmt.Errorf("make the file system's device: %w", err)
	}
	defer func() { _, _ = output(context.WithoutCancel(ctx), "dmsetup", "remove", "--retry", name) }()
	return format("/dev/mapper/" + name)
}

// format makes the file system, and has it filled.
func format(ctx context.Context, dev, tmp string, fill func(root string) error) (err error) {
	if _, err := output(ctx, mkfs(dev)...); err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	if err := mountXFS(dev, root); err != nil {
		return err
	}
	return errors.Join(fill(root), unmount(root), syncDevice(dev))
}

// syncDevice waits until all that was written to a device is on the medium.
func syncDevice(dev string) (err error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// commit puts the head in its place, the first sector last: that write makes the registry.
func commit(dev string, content []byte) (err error) {
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("write the registry's head to %s: %w", dev, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, part := range [][2]int{{sector, len(content)}, {0, sector}} {
		if _, err := f.WriteAt(content[part[0]:part[1]], int64(part[0])); err != nil {
			return fmt.Errorf("write the registry's head to %s: %w", dev, err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("write the registry's head to %s: %w", dev, err)
		}
	}
	return nil
}

// copyHead reads the head of a device.
func copyHead(dev string) ([]byte, error) {
	f, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, head.Size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("read the registry's head: %w", err)
	}
	return b, nil
}

// keepCopy makes the boot partition's copy of the head that of the registry.
func (s *System) keepCopy(content []byte) error {
	return s.onESP(true, func(v *esp.Volume) error { return v.WriteFixed(esp.RegistryHead, head.MarshalCopy(content)) })
}

func detach(ctx context.Context, name string) {
	if _, err := os.Stat("/dev/mapper/" + name); err == nil {
		_ = command.Run(ctx, command.Cmd{Argv: []string{"cryptsetup", "close", name}}) // busy: it stays
	}
}
