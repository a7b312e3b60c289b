package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/registry/head"
	"golang.org/x/sys/unix"
)

// Start is what a boot does: it makes the registry if its partition is blank, opens it, and puts it
// in its place. It ends without an error also where there is no registry after it: then the status
// says why, and the places of flakes are closed against writing, so that nothing fills the memory
// that was meant for a disk.
func (s *System) Start(ctx context.Context) (*Status, error) {
	t, err := s.start(ctx)
	if err != nil {
		// Not one of the troubles that have words of their own; the data is as it was.
		t = &Trouble{err.Error(), "flake-registry --start tries again"}
	}
	if t != nil {
		if err := closePlaces(); err != nil {
			s.note("%v", err)
		}
	}
	st := s.glance(t)
	if err := st.save(); err != nil {
		return st, err
	}
	if t != nil {
		s.remember(false)
	}
	return st, nil
}

func (s *System) start(ctx context.Context) (*Trouble, error) {
	id, err := MachineID()
	if err != nil {
		return nil, err
	}
	if isMounted(builtinRoot) {
		return nil, s.place(ctx)
	}
	f := Facts{Policy: s.Config.Policy, Partition: s.Device.Registry != "", TPM: hasTPM()}
	if f.Partition {
		if f.Kind, err = s.classify(s.Device.Registry); err != nil {
			return nil, err
		}
		if err := s.growBefore(f, id); err != nil {
			s.note("%v", err)
		}
		if f.Size, err = sizeOf(s.Device.Registry); err != nil {
			return nil, err
		}
		f.Copy = (f.Kind == head.Unknown || f.Kind == head.Empty) && s.hasCopy()
	}
	action, trouble := Decide(f)
	dev := s.Device.Registry
	switch action {
	case Leave:
		return trouble, nil
	case Make:
		s.note("making the registry on %s (%d MiB, policy %s)", dev, f.Size>>20, f.Policy)
		if err := s.create(ctx, dev, func(root string) error { return s.furnish(ctx, root, true, id) }); err != nil {
			return nil, err
		}
	}
	if f.Policy != PolicyNone || f.Kind == head.LUKS {
		if t := s.unlock(ctx); t != nil {
			return t, nil
		}
		dev = "/dev/mapper/" + mapName
	}
	return s.use(ctx, dev, id)
}

// growBefore grows the partition before what is on it is made or opened. One that is left alone is left
// alone altogether.
func (s *System) growBefore(f Facts, machineID string) error {
	f.Size = MinSize // what it will have is what is to be found out
	action, _ := Decide(f)
	if action == Leave {
		return nil
	}
	if action != Make {
		machineID = "" // this boot's may be new, where the partition table lost the registry's: see Grow
	}
	_, err := s.growPartition(machineID)
	return err
}

// use mounts the opened built-in registry and puts it in its place.
func (s *System) use(ctx context.Context, dev, machineID string) (*Trouble, error) {
	if err := s.mountHealed(dev, builtinRoot); err != nil {
		return damaged(dev, err), nil
	}
	if err := s.furnish(ctx, builtinRoot, true, machineID); err != nil {
		if !errors.Is(err, unix.ENOSPC) {
			return nil, err
		}
		s.note("the registry is full: %v", err)
	}
	return nil, s.place(ctx)
}

// damaged finds the words for a file system that does not mount.
func damaged(dev string, err error) *Trouble {
	if errors.Is(err, unix.ENODEV) {
		return &Trouble{fmt.Sprintf("this image cannot mount the registry: %v", err), "go back to the image that could: os-update --rollback"}
	}
	return &Trouble{fmt.Sprintf("the file system of the registry does not mount: %v", err),
		"flake-registry --repair repairs it (xfs_repair " + dev + "); what it cannot keep is in lost+found. Save what you need before: mount -o ro,norecovery " + dev + " /run/rescue"}
}

// place makes the folders of the registries appear where the system has them.
func (s *System) place(ctx context.Context) error {
	root := builtinRoot
	if n, err := s.readNote(); err != nil {
		s.note("%v", err)
	} else if n.Active != "" {
		if err := s.openOther(ctx, n.Active); err != nil {
			s.note("the registry that was activated cannot be used, the built-in one is: %v", err)
		} else {
			root = otherRoot
		}
	}
	if err := appear(builtinRoot, s.ownFolders()); err != nil {
		return err
	}
	if err := showHostKey(); err != nil {
		s.note("show the ssh host key: %v", err)
	}
	if err := s.showHomes(); err != nil {
		s.note("%v", err)
	}
	return appear(root, flakeFolders)
}

// appear binds folders of a registry to their places, where that is not done.
func appear(root string, list []folder) error {
	for _, f := range list {
		if isMounted(f.at) {
			if sameFolder(filepath.Join(root, f.name), f.at) {
				continue
			}
			if err := unmount(f.at); err != nil {
				return err
			}
		}
		if err := bind(filepath.Join(root, f.name), f.at); err != nil {
			return err
		}
	}
	return nil
}

func sameFolder(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// closePlaces puts empty read-only folders over the places of flakes.
func closePlaces() error {
	for _, f := range flakeFolders {
		if isMounted(f.at) {
			continue
		}
		if err := os.MkdirAll(f.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("eos-no-registry", f.at, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "size=4k,mode=0555"); err != nil {
			return fmt.Errorf("close %s: %w", f.at, err)
		}
	}
	return nil
}

// remember keeps what the next boot has to know: the registry's header, and, of an image that is
// committed, whether there was a registry. A trial is not held to what its elder could not do either.
func (s *System) remember(worked bool) {
	if worked {
		if err := s.refreshCopy(); err != nil {
			s.note("keep a copy of the registry's header: %v", err)
		}
	}
	if trial, err := s.onTrial(); err != nil || trial {
		return
	}
	n, err := s.readNote()
	if err == nil && n.Worked == worked {
		return
	}
	n.Worked = worked
	if err := s.writeNote(n); err != nil {
		s.note("%v", err)
	}
}

// refreshCopy makes the copy on the boot partition that of the header there is now, if that was changed.
func (s *System) refreshCopy() error {
	if s.Config.Policy == PolicyNone {
		return nil
	}
	content, err := copyHead(s.Device.Registry)
	if err != nil {
		return err
	}
	kept, err := s.readCopy()
	if err != nil {
		return s.keepCopy(content) // there is none, or it is damaged
	}
	outdated, damaged := head.Outdated(content, kept)
	if damaged {
		return errors.New("the header differs from its copy, but was not changed: part of it may be damaged, the copy stays as it is")
	}
	if !outdated {
		return nil
	}
	return s.keepCopy(content)
}

// hasCopy tells whether the boot partition has a good copy of a header.
func (s *System) hasCopy() bool {
	_, err := s.readCopy()
	return err == nil
}

func (s *System) readCopy() (content []byte, err error) {
	err = s.onESP(false, func(v *esp.Volume) error {
		b, err := v.ReadFixed(esp.RegistryHead, esp.RegistryHeadSize)
		if errors.Is(err, os.ErrNotExist) {
			return head.ErrNoCopy
		}
		if err == nil {
			content, err = head.ParseCopy(b)
		}
		return err
	})
	return content, err
}
