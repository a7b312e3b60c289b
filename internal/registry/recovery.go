package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/registry/head"
)

// keySlots says by what a LUKS2 device is opened, from its header: the kinds of its tokens, and "key" for
// key slots without one.
func keySlots(ctx context.Context, dev string) []string {
	text, err := output(ctx, "cryptsetup", "luksDump", "--dump-json-metadata", dev)
	if err != nil {
		return nil
	}
	kinds, _ := slotKinds([]byte(text)) // of another form: none
	return kinds
}

// slotKinds reads LUKS2 metadata; LUKS2 on-disk format specification 1.1.3, 3.
func slotKinds(text []byte) ([]string, error) {
	var m struct {
		Keyslots map[string]struct{} `json:"keyslots"`
		Tokens   map[string]struct {
			Type     string   `json:"type"`
			Keyslots []string `json:"keyslots"`
		} `json:"tokens"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("parse LUKS2 metadata: %w", err)
	}
	free := map[string]bool{}
	for k := range m.Keyslots {
		free[k] = true
	}
	var kinds []string
	for _, t := range m.Tokens {
		kinds = append(kinds, strings.TrimPrefix(t.Type, "systemd-"))
		for _, k := range t.Keyslots {
			delete(free, k)
		}
	}
	if len(free) > 0 {
		kinds = append(kinds, "key")
	}
	slices.Sort(kinds)
	return slices.Compact(kinds), nil
}

// recoveryForm is the form of systemd's recovery keys: 256 bits as eight groups of eight modhex digits,
// see systemd-cryptenroll(1).
var recoveryForm = regexp.MustCompile(`[cbdefghijklnrtuv]{8}(-[cbdefghijklnrtuv]{8}){7}`)

// RecoveryKey enrols a new recovery key for the built-in registry, in place of an older one, and returns
// it. What explains it, with the key as a QR code, goes to about. It is not kept.
func (s *System) RecoveryKey(ctx context.Context, about io.Writer) (string, error) {
	if s.Config.Policy == PolicyNone {
		return "", fmt.Errorf("enrol recovery key: %w: the registry is not encrypted", ErrRefused)
	}
	var out bytes.Buffer
	c := command.Cmd{
		Argv:   []string{"systemd-cryptenroll", "--recovery-key", "--wipe-slot=recovery"},
		Env:    []string{"SYSTEMD_COLORS=16"}, // without colours there is no QR code
		Stdout: &out, Stderr: about,
	}
	if s.Config.Policy == PolicyKeyfile {
		key, err := s.espKey()
		if err != nil {
			return "", err
		}
		defer key.Close()
		c.Argv, c.Files = append(c.Argv, "--unlock-key-file="+secretPath), []*os.File{key.f}
	} else {
		c.Argv = append(c.Argv, "--unlock-tpm2-device=auto")
	}
	c.Argv = append(c.Argv, s.Device.Registry)
	if err := run(ctx, c); err != nil {
		return "", fmt.Errorf("enrol recovery key: %w", err)
	}
	key := recoveryForm.FindString(out.String())
	if key == "" {
		return "", errors.New("enrol recovery key: systemd-cryptenroll has printed none")
	}
	// The key counts, also where its slot's copy does not get to the boot partition.
	if err := s.refreshCopy(); err != nil {
		s.note("keep a copy of the registry's header: %v", err)
	}
	return key, nil
}

// Unlock opens a registry that does not open by itself with a recovery key, and puts it in its place. With reseal
// it is sealed to this machine's TPM as it is now.
func (s *System) Unlock(ctx context.Context, recovery string, reseal bool) error {
	key, err := newSecret([]byte(recovery))
	if err != nil {
		return err
	}
	defer key.Close()
	if _, err := os.Stat("/dev/mapper/" + mapName); err != nil {
		if err := key.run(ctx, "cryptsetup", "open", "--type", "luks2", "--key-file", secretPath, s.Device.Registry, mapName); err != nil {
			return fmt.Errorf("open the registry with the recovery key: %w", err)
		}
	}
	if reseal {
		if s.Config.Policy != PolicyTPM2 {
			return fmt.Errorf("seal the registry's key: the policy is %s", s.Config.Policy)
		}
		if err := key.run(ctx, sealCommand(s.Device.Registry, "tpm2")...); err != nil {
			return fmt.Errorf("seal the registry's key to the TPM: %w", err)
		}
		if err := s.refreshCopy(); err != nil {
			return err
		}
	}
	return s.startWhole(ctx)
}

// RestoreHeader puts the copy of the header on the boot partition back.
func (s *System) RestoreHeader(ctx context.Context, confirm func(question string) error) error {
	content, err := s.readCopy()
	if err != nil {
		return fmt.Errorf("restore header: %w", err)
	}
	if _, err := os.Stat("/dev/mapper/" + mapName); err == nil {
		return fmt.Errorf("restore header: %w: the registry is open, so its header is good", ErrRefused)
	}
	kind, err := s.classify(s.Device.Registry)
	if err != nil {
		return fmt.Errorf("restore header: %w", err)
	}
	if kind == head.Blank {
		return fmt.Errorf("restore header: %w: the partition has the builder's mark, the next start makes a registry", ErrRefused)
	}
	if err := confirm(fmt.Sprintf("the first %d MiB of %s (%v) will be replaced by the copy of its header", head.Size>>20, s.Device.Registry, kind)); err != nil {
		return err
	}
	if err := commit(s.Device.Registry, content); err != nil {
		return err
	}
	return s.startWhole(ctx)
}

// Repair repairs the file system of the built-in registry with xfs_repair. Its journal is thrown away
// only if discardJournal says so: what it holds is then lost.
func (s *System) Repair(ctx context.Context, discardJournal bool, out io.Writer) error {
	if isMounted(builtinRoot) {
		return fmt.Errorf("repair registry: %w: its file system is mounted, so there is nothing to repair", ErrRefused)
	}
	dev := s.Device.Registry
	if s.Config.Policy != PolicyNone {
		if t := s.unlock(ctx); t != nil {
			return t
		}
		dev = "/dev/mapper/" + mapName
	}
	argv := []string{"xfs_repair"}
	if discardJournal {
		argv = append(argv, "-L")
	}
	err := run(ctx, command.Cmd{Argv: append(argv, dev), Stdout: out, Stderr: out})
	var c *command.Error
	if errors.As(err, &c) && c.Status == 2 {
		return &Trouble{"repair registry: its journal holds changes that cannot be replayed", "flake-registry --repair --discard-journal goes on without them: the last changes before the damage are lost"}
	}
	if err != nil {
		return fmt.Errorf("repair registry: %w", err)
	}
	return s.startWhole(ctx)
}

// startWhole starts the registry, and makes an error of what is wrong with it.
func (s *System) startWhole(ctx context.Context) error {
	st, err := s.Start(ctx)
	if err != nil {
		return err
	}
	if t := st.Trouble(); t != nil {
		return t
	}
	s.remember(true)
	return nil
}

// Confirm tells whether a trial may be committed, as far as the registry goes: one without a registry may
// not, if the system before it had one.
func (s *System) Confirm(ctx context.Context) error {
	trial, err := s.onTrial()
	if err != nil || !trial {
		return err
	}
	n, err := s.readNote()
	if err != nil {
		s.note("%v", err)
		return nil
	}
	if t := s.Status(ctx).Trouble(); n.Worked && t != nil {
		return fmt.Errorf("this image has no registry, the one before it had: %w", t)
	}
	return nil
}

// Grow grows the built-in registry into what its disk has become. It also keeps what the next boot has to
// know of a registry that works; nobody waits for it.
func (s *System) Grow(ctx context.Context) error {
	if !isMounted(builtinRoot) {
		return errors.New("grow registry: it is not open")
	}
	id, err := readMachineID(filepath.Join(builtinRoot, machineIDFile))
	if err != nil {
		s.note("%v", err)
	}
	if _, err := s.growPartition(id); err != nil {
		return err
	}
	_, err = os.Stat("/dev/mapper/" + mapName)
	if err := s.growContent(ctx, err == nil); err != nil {
		return err
	}
	s.remember(true)
	if last, err := LoadStatus(StateFile); err == nil {
		s.recall(last)
	}
	return s.glance(nil).save()
}
