package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/esp"
	"golang.org/x/sys/unix"
)

// keyMagic begins the key file of the policy keyfile; 64 random bytes follow.
var keyMagic = []byte("EOS registry key 1\n")

const keyBytes = 64

var errNoKey = errors.New("there is no key on the boot partition")

// espKey reads the key file of the policy keyfile.
func (s *System) espKey() (*secret, error) {
	var k *secret
	err := s.onESP(false, func(v *esp.Volume) error {
		b, err := v.ReadFixed(esp.RegistryKey, esp.RegistryKeySize)
		if errors.Is(err, os.ErrNotExist) {
			return errNoKey
		}
		if err != nil {
			return err
		}
		key, ok := bytes.CutPrefix(b, keyMagic)
		if !ok {
			return errNoKey
		}
		k, err = newSecret(key[:keyBytes])
		return err
	})
	return k, err
}

// attach unlocks a LUKS2 device by what the policy keeps for it: the TPM's seal, or the key on the boot
// partition. The header may be in a file. Nobody is asked for anything.
func (s *System) attach(ctx context.Context, name, dev, header string) error {
	if s.Config.Policy == PolicyKeyfile {
		key, err := s.espKey()
		if err != nil {
			return err
		}
		defer key.Close()
		argv := []string{"cryptsetup", "open", "--type", "luks2", "--key-file", secretPath}
		if header != "" {
			argv = append(argv, "--header", header)
		}
		return key.run(ctx, append(argv, dev, name)...)
	}
	options := "tpm2-device=auto,headless=true,luks"
	if header != "" {
		options += ",header=" + header
	}
	return run(ctx, command.Cmd{Argv: []string{"systemd-cryptsetup", "attach", name, dev, "-", options}})
}

// unlock opens the built-in registry, and says in words what stands in the way.
func (s *System) unlock(ctx context.Context) *Trouble {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	if _, err := os.Stat("/dev/mapper/" + mapName); err == nil {
		return nil
	}
	err := s.attach(ctx, mapName, s.Device.Registry, "")
	if err == nil {
		return nil
	}
	return lockedOut(s.Config.Policy, hasTPM(), dumps(ctx, s.Device.Registry), err)
}

// dumps tells whether cryptsetup can read the header of a device.
func dumps(ctx context.Context, dev string) bool {
	_, err := output(ctx, "cryptsetup", "luksDump", dev)
	return err == nil
}

// lockedOut finds the words for a registry that does not open.
func lockedOut(policy string, tpm, header bool, err error) *Trouble {
	const recover = "with the recovery key: flake-registry --unlock"
	switch {
	case !header:
		return &Trouble{"the header of the registry is damaged", "put back the copy on the boot partition: flake-registry --restore-header"}
	case policy == PolicyTPM2 && !tpm:
		return &Trouble{"the registry is sealed to a TPM 2.0, and this machine shows none", "switch the TPM on in the firmware and restart, or open it " + recover}
	case policy == PolicyTPM2:
		return &Trouble{"this machine's TPM does not unseal the registry: it is another TPM, or the state of Secure Boot has changed (" + brief(err) + ")",
			"put the disk back into its machine, or undo the change in the firmware; or open it " + recover + " --reseal"}
	case errors.Is(err, errNoKey):
		return &Trouble{"the boot partition has lost the registry's key", "open it " + recover}
	}
	return &Trouble{"the registry does not open: " + brief(err), "open it " + recover}
}

// brief is the end of what a program said.
func brief(err error) string {
	var c *command.Error
	if errors.As(err, &c) {
		lines := strings.Split(strings.TrimSpace(c.StderrTail), "\n")
		if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
			return last
		}
	}
	return err.Error()
}

// mountXFS mounts a file system of a registry. Its journal is replayed, nothing else is repaired; see
// [System.mountHealed].
func mountXFS(dev, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	err := unix.Mount(dev, at, "xfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", dev, at, err)
	}
	return nil
}

func unmount(at string) error {
	if err := unix.Unmount(at, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// bind makes a folder of a registry appear at another place.
func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}
