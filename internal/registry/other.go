package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/registry/head"
)

// otherWait is how long a disk that was activated may take to show up.
const otherWait = 15 * time.Second

// uuidOf returns the UUID of the LUKS2 device or file system on dev.
func uuidOf(ctx context.Context, dev string) (string, error) {
	uuid, err := output(ctx, "blkid", "-p", "-s", "UUID", "-o", "value", dev)
	if err != nil || uuid == "" {
		return "", fmt.Errorf("find the registry on %s: it has no UUID", dev)
	}
	return uuid, nil
}

func (s *System) builtinUUID(ctx context.Context) string {
	uuid, _ := uuidOf(ctx, s.Device.Registry) // none: the status says what is there instead
	return uuid
}

// isRegistry tells whether a device was made by us.
func (s *System) isRegistry(ctx context.Context, dev string) (head.Kind, bool) {
	kind, err := s.classify(dev)
	if err != nil {
		return kind, false
	}
	label, _ := output(ctx, "blkid", "-p", "-s", "LABEL", "-o", "value", dev) // none is no registry
	return kind, kind == head.LUKS && label == Partition || kind == head.Plain && label == "eos-registry" || kind == head.Blank
}

// openOther opens the registry with a UUID and mounts it at otherRoot.
func (s *System) openOther(ctx context.Context, uuid string) error {
	if isMounted(otherRoot) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	dev, err := awaitUUID(ctx, uuid)
	if err != nil {
		return err
	}
	kind, ours := s.isRegistry(ctx, dev)
	if !ours || kind == head.Blank {
		return fmt.Errorf("open registry %s: it holds %v, no registry", dev, kind)
	}
	if kind == head.Plain && s.Config.Policy != PolicyNone {
		return fmt.Errorf("open registry %s: it is not encrypted, but the policy is %s", dev, s.Config.Policy)
	}
	source := dev
	if kind == head.LUKS {
		source = "/dev/mapper/" + otherName
		if _, err := os.Stat(source); err != nil {
			if err := s.attach(ctx, otherName, dev, ""); err != nil {
				return fmt.Errorf("open registry %s: %s", dev, brief(err))
			}
		}
	}
	if err := s.mountHealed(source, otherRoot); err != nil {
		detach(context.WithoutCancel(ctx), otherName)
		return err
	}
	return s.furnish(ctx, otherRoot, false, "")
}

// awaitUUID waits until udev has seen a device.
func awaitUUID(ctx context.Context, uuid string) (string, error) {
	if strings.ContainsAny(uuid, "/ \n") {
		return "", fmt.Errorf("find registry: %q is no UUID", uuid)
	}
	link := "/dev/disk/by-uuid/" + uuid
	for deadline := time.Now().Add(otherWait); ; time.Sleep(200 * time.Millisecond) {
		dev, err := filepath.EvalSymlinks(link)
		if err == nil {
			return dev, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return "", fmt.Errorf("find registry: no device with the UUID %s is there", uuid)
		}
	}
}

// closeOther lets go of a registry on another disk.
func closeOther(ctx context.Context) error {
	if isMounted(otherRoot) {
		if err := unmount(otherRoot); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/mapper/" + otherName); err != nil {
		return nil
	}
	if _, err := output(ctx, "cryptsetup", "close", otherName); err != nil {
		return fmt.Errorf("close registry: %w", err)
	}
	return nil
}

// ErrBusy says that flakes or containers use the registry.
var ErrBusy = errors.New("it is in use")

// leave takes the folders of flakes out of their places. Whoever uses them is not stopped.
func leave(ctx context.Context) error {
	if names, err := output(ctx, "podman", "ps", "--format", "{{.Names}}"); err == nil && names != "" {
		return fmt.Errorf("stop registry: %w by the containers %s", ErrBusy, strings.Join(strings.Fields(names), ", "))
	}
	for _, f := range flakeFolders {
		for _, at := range mountsAt(f.at) {
			if err := unix.Unmount(at, 0); errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("stop registry: %s: %w", at, ErrBusy)
			} else if err != nil {
				return fmt.Errorf("stop registry: unmount %s: %w", at, err)
			}
		}
	}
	return nil
}

// mountsAt returns what is mounted at a folder and below, the innermost first: podman mounts some of
// its folders over themselves.
func mountsAt(dir string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			all = append([]string{f[4]}, all...)
		}
	}
	return all
}

// Stop takes the active registry out of use until the next boot or --start. The built-in one stays
// open for the state of the device.
func (s *System) Stop(ctx context.Context) error {
	if err := leave(ctx); err != nil {
		return errors.Join(err, s.place(context.WithoutCancel(ctx)))
	}
	if err := closeOther(ctx); err != nil {
		return err
	}
	if err := closePlaces(); err != nil {
		return err
	}
	return s.look(ctx, &Trouble{"the registry was stopped", "flake-registry --start brings it back"}).save()
}

// Activate makes the registry on dev the one that flakes use, now and at every later boot.
func (s *System) Activate(ctx context.Context, dev string) error {
	if !isMounted(builtinRoot) {
		return errors.New("activate registry: the built-in registry is not open, and it keeps the device's own state")
	}
	dev, err := s.blockDevice(dev)
	if err != nil {
		return err
	}
	uuid := ""
	if dev != s.Device.Registry {
		kind, ours := s.isRegistry(ctx, dev)
		if !ours || kind == head.Blank {
			return fmt.Errorf("activate registry %s: it holds %v, no registry", dev, kind)
		}
		if uuid, err = uuidOf(ctx, dev); err != nil {
			return err
		}
	}
	n, err := s.readNote()
	if err != nil {
		s.note("%v", err)
	}
	back := func(err error) error { return errors.Join(err, s.place(context.WithoutCancel(ctx))) }
	if err := leave(ctx); err != nil {
		return back(err)
	}
	if err := closeOther(ctx); err != nil {
		return back(err)
	}
	root := builtinRoot
	if uuid != "" {
		if err := s.openOther(ctx, uuid); err != nil {
			return back(err)
		}
		root = otherRoot
	}
	if err := appear(root, flakeFolders); err != nil {
		return err
	}
	n.Active = uuid
	if err := s.writeNote(n); err != nil {
		return fmt.Errorf("remember the registry for later boots: %w", err)
	}
	return s.look(ctx, nil).save()
}

// blockDevice returns the kernel's name of a block device.
func (s *System) blockDevice(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		var fi os.FileInfo
		if fi, err = os.Stat(real); err == nil && fi.Mode()&os.ModeDevice == 0 || err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			err = fmt.Errorf("%s is not a block device", path)
		}
	}
	if err != nil {
		return "", fmt.Errorf("find device: %w", err)
	}
	return real, nil
}
