package earlyboot

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/dm"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slotimage"
	"golang.org/x/sys/unix"
)

// Names of the partitions.
const (
	nameESP      = "p.UEFI"
	nameSlotA    = "p.lxreadonly"
	nameSlotB    = "p.lxrootclone1"
	nameRegistry = "p.spare"
)

var slotNames = map[bootstate.Slot]string{"a": nameSlotA, "b": nameSlotB}

// What the initramfs knows about the image it belongs to.
const (
	keysDir     = "/etc/eos/keys"
	buildIDFile = "/etc/eos/build-id"
)

// rootName is the name of the root's device-mapper device.
const rootName = "eos-root"

const sysroot = "/sysroot"

// partitionWait is how long the kernel may take from showing a disk to showing
// its partitions.
const partitionWait = 5 * time.Second

// findSlot finds the partitions by their names, and opens the slot's. The ESP
// has to be there, since nothing could be committed without it; the other slot
// and the registry need not.
func (b *Boot) findSlot() error {
	b.found.Slot = b.line.Slot
	b.found.Trial = b.line.Trial
	b.found.Slots = map[bootstate.Slot]string{}
	var err error
	node := func(name string, required bool) string {
		var dev string
		if err == nil {
			dev, err = b.partition(name, required)
		}
		return dev
	}
	slot := node(slotNames[b.line.Slot], true)
	b.found.ESP = node(nameESP, true)
	other := node(slotNames[b.line.Slot.Other()], false)
	b.found.Registry = node(nameRegistry, false)
	if err != nil {
		return err
	}
	b.found.Slots[b.line.Slot] = slot
	if other != "" {
		b.found.Slots[b.line.Slot.Other()] = other
	}
	p, err := findPartition(b.table, slotNames[b.line.Slot])
	if err != nil {
		return err
	}
	b.size = p.Size
	b.slot, err = os.Open(slot)
	return err
}

// partition returns the device of a named partition of the disk.
func (b *Boot) partition(name string, required bool) (string, error) {
	p, err := findPartition(b.table, name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", b.disk.Device, err)
	}
	if p == nil {
		if !required {
			return "", nil
		}
		return "", fmt.Errorf("%s: no partition is named %s; there is %s", b.disk.Device, name, join(partitionNames(b.table)))
	}
	sys := filepath.Join("/sys/block", strings.ReplaceAll(strings.TrimPrefix(b.disk.Device, "/dev/"), "/", "!"))
	for begin := time.Now(); ; time.Sleep(pollEvery) {
		node, err := partitionNode(sys, *p)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || time.Since(begin) > partitionWait {
			return node, err
		}
	}
}

// findPartition returns the one partition with the name, or nil if there is none.
func findPartition(t *gpt.Table, name string) (*gpt.Partition, error) {
	var found *gpt.Partition
	for i, p := range t.Partitions {
		if p.Name != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("partitions %d and %d are both named %s", found.Number, p.Number, name)
		}
		found = &t.Partitions[i]
	}
	return found, nil
}

func partitionNames(t *gpt.Table) []string {
	var names []string
	for _, p := range t.Partitions {
		names = append(names, fmt.Sprintf("%d %q", p.Number, p.Name))
	}
	if names == nil {
		names = []string{"none"}
	}
	return names
}

// readManifest parses the slot's manifest. Nothing in it counts before the next step.
func (b *Boot) readManifest() error {
	block, err := slotimage.ReadBlock(b.slot, b.size)
	if err != nil {
		return fmt.Errorf("%s: %w", b.slot.Name(), err)
	}
	b.block = block
	return nil
}

// verifyManifest checks the signature against the keys in the initramfs, and
// that the image is where the manifest says.
func (b *Boot) verifyManifest() error {
	keys, err := key.LoadPublicDir(keysDir)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("no accepted key in %s", keysDir)
	}
	var accepted []ed25519.PublicKey
	var ids []string
	for _, k := range keys {
		accepted = append(accepted, k.Key)
		ids = append(ids, k.ID)
	}
	m, err := b.block.Verify(accepted)
	if err == nil {
		err = b.block.Fits(b.slot, b.size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; accepted: %s", b.slot.Name(), err, join(ids))
	}
	b.manifest = m
	b.found.Version, b.found.BuildID = m.Version, m.BuildID
	return nil
}

// matchBuild refuses a slot of another build than this kernel image. The two are
// made together; any other pair was never tested by anybody.
func (b *Boot) matchBuild() error {
	text, err := os.ReadFile(buildIDFile)
	if err != nil {
		return err
	}
	own := strings.TrimSpace(string(text))
	if own == "" {
		return fmt.Errorf("%s is empty", buildIDFile)
	}
	if own != b.manifest.BuildID {
		return fmt.Errorf("kernel image build %s does not belong to slot %s (build %s)", own, b.line.Slot, b.manifest.BuildID)
	}
	return nil
}

// verityTable describes the slot to device mapper.
func verityTable(device string, m *slotimage.Manifest) (dm.Target, error) {
	return dm.Verity{
		Data: device, Hash: device,
		DataBlocks: m.DataBlocks(),
		HashStart:  m.TreeOffset() / slotimage.BlockSize,
		Root:       m.RootHash,
		Salt:       m.Salt[:],
	}.Target()
}

// mapSlot makes the device that returns only what the manifest's root hash covers.
func (b *Boot) mapSlot() error {
	t, err := verityTable(b.slot.Name(), b.manifest)
	if err != nil {
		return err
	}
	// The form of the uuid is veritysetup's, so that its status command
	// and udev's rules know the device for what it is.
	uuid := fmt.Sprintf("CRYPT-VERITY-%x-%s", b.manifest.RootHash[:16], rootName)
	d, err := dm.Create(rootName, uuid, t)
	if err != nil {
		return err
	}
	// What udev would do.
	b.found.Mapper = "/dev/mapper/" + rootName
	if err := os.Symlink("../"+filepath.Base(d.Node()), b.found.Mapper); err != nil {
		return err
	}
	return b.slot.Close()
}

// initPath is the program that the boot ends in.
const initPath = "/sbin/init"

// mountRoot mounts the slot's file system and looks whether it can be handed over to.
func (b *Boot) mountRoot() error {
	if err := os.MkdirAll(sysroot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(b.found.Mapper, sysroot, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", b.found.Mapper, sysroot, err)
	}
	return checkRoot(sysroot)
}

// checkRoot makes sure of what the steps after it rely on. Once the mounts are
// moved there is no way back.
func checkRoot(root string) error {
	for _, dir := range movedMounts {
		if fi, err := os.Lstat(root + dir); err != nil || !fi.IsDir() {
			return fmt.Errorf("root has no folder %s to mount on", dir)
		}
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	return checkInit(r)
}
