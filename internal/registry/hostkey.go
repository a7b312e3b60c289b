package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	hostKey    = "ssh_host_ed25519_key"
	sshRunDir  = "/run/eos/ssh" // where sshd looks
	sshProgram = "/usr/bin/ssh-keygen"
)

// makeHostKey makes the ssh host key of this device in the folder of the built-in registry, once. It gets its name
// when it is whole.
func makeHostKey(ctx context.Context, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make ssh host key: %w", err)
		}
	}()
	path := filepath.Join(dir, hostKey)
	if _, err := os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(sshProgram); errors.Is(err, os.ErrNotExist) {
		return nil // an image without ssh
	}
	tmp := filepath.Join(dir, "new")
	for _, p := range []string{tmp, tmp + ".pub"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if _, err := output(ctx, sshProgram, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp); err != nil {
		return err
	}
	for _, ext := range []string{".pub", ""} {
		if err := syncFile(tmp + ext); err != nil {
			return err
		}
		if err := os.Rename(tmp+ext, path+ext); err != nil {
			return err
		}
	}
	return syncFile(dir)
}

// showHostKey lets sshd find the key of the registry, unless this boot has had to make one.
func showHostKey() error {
	key := filepath.Join("/var/lib/eos/ssh", hostKey)
	if _, err := os.Stat(key); err != nil {
		return nil
	}
	if err := os.MkdirAll(sshRunDir, 0o755); err != nil {
		return err
	}
	err := os.Symlink(key, filepath.Join(sshRunDir, hostKey))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A copy of what is no secret: whoever sees /run need not see the registry.
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		return nil // sshd does not need it
	}
	return os.WriteFile(filepath.Join(sshRunDir, hostKey+".pub"), public, 0o644)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
