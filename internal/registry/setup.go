package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/registry/head"
)

// SetupOptions say how far --setup may go.
type SetupOptions struct {
	Device  string
	Wipe    string                      // a device that is a registry already, named once more
	Confirm func(question string) error // asked before anything is written
}

// ErrRefused says that a device is not to be written to.
var ErrRefused = errors.New("refused")

// Setup makes a registry on a device: all that is on it is lost.
func (s *System) Setup(ctx context.Context, o SetupOptions) error {
	dev, err := s.blockDevice(o.Device)
	if err != nil {
		return err
	}
	size, err := sizeOf(dev)
	if err != nil {
		return fmt.Errorf("set up registry: %w", err)
	}
	found := target{device: dev, size: size}
	if found.kind, found.registry = s.isRegistry(ctx, dev); found.registry && o.Wipe != "" {
		wipe, err := s.blockDevice(o.Wipe)
		if err != nil {
			return err
		}
		found.wipe = wipe == dev
	}
	if found.system, err = s.isOurs(dev); err != nil {
		return fmt.Errorf("set up registry: %w", err)
	}
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	found.busy = errors.Is(err, unix.EBUSY)
	if err != nil && !found.busy {
		return fmt.Errorf("set up registry: %w", err)
	}
	if err == nil {
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := found.refuse(); err != nil {
		return err
	}
	if err := o.Confirm(fmt.Sprintf("all data on %s (%d MiB%s) will be lost", dev, size>>20, s.contentOf(ctx, dev))); err != nil {
		return err
	}
	// An old header over new data would be a lie: it goes first.
	if err := commit(dev, make([]byte, head.Size)); err != nil {
		return err
	}
	if err := s.create(ctx, dev, func(root string) error { return s.furnish(ctx, root, false, "") }); err != nil {
		return fmt.Errorf("set up registry on %s: %w", dev, err)
	}
	_, _ = output(ctx, "udevadm", "trigger", "--settle", dev) // so that it is found by its UUID
	return nil
}

// target is what is known of a device that is to become a registry.
type target struct {
	device   string
	size     int64
	kind     head.Kind
	registry bool // it is one already
	wipe     bool // and was named once more
	system   bool // of the system's own
	busy     bool
}

func (t target) refuse() error {
	switch {
	case t.system:
		return fmt.Errorf("set up registry on %s: %w: the system itself is on it", t.device, ErrRefused)
	case t.busy:
		return fmt.Errorf("set up registry on %s: %w: it is mounted or mapped", t.device, ErrRefused)
	case t.registry && !t.wipe:
		return fmt.Errorf("set up registry on %s: %w: it is a registry already; --wipe %s names it", t.device, ErrRefused, t.device)
	case t.size < MinSize:
		return fmt.Errorf("set up registry on %s: %w: it has %d MiB, a registry takes %d", t.device, ErrRefused, t.size>>20, int64(MinSize)>>20)
	}
	return nil
}

// isOurs tells whether a device is the system's disk or one of its partitions.
func (s *System) isOurs(dev string) (bool, error) {
	disk, _, err := diskOf(s.Device.ESP)
	if err != nil {
		return false, err
	}
	own := []string{disk, s.Device.ESP, s.Device.Registry}
	for _, slot := range s.Device.Slots {
		own = append(own, slot)
	}
	for _, o := range own {
		if o == "" {
			continue
		}
		var a, b unix.Stat_t
		if unix.Stat(o, &a) == nil && unix.Stat(dev, &b) == nil && a.Rdev == b.Rdev {
			return true, nil
		}
	}
	return false, nil
}

// contentOf names what seems to be on a device.
func (s *System) contentOf(ctx context.Context, dev string) string {
	text, err := output(ctx, "blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-s", "LABEL", "-o", "export", dev)
	if err != nil || text == "" {
		return ", nothing known on it"
	}
	var words []string
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && name != "DEVNAME" {
			words = append(words, strings.ToLower(name)+" "+value)
		}
	}
	return ", now with " + strings.Join(words, ", ")
}
