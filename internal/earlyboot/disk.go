package earlyboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/gpt"
)

// diskWait is how long a disk may take to show up: USB sticks and
// SCSI arrays take seconds.
const diskWait = 30 * time.Second

// settle is how long the set of disks has to stay the same before the one that
// was found is taken: its copy may be the next to show up.
const settle = 100 * time.Millisecond

const pollEvery = 20 * time.Millisecond

// Disk is a disk that may be the one to boot from.
type Disk struct {
	Device string // "/dev/vda"
	GUID   string // of its partition table, lower case
	Err    error  // why there is no partition table
}

// errNoDisk says that waiting may help.
var errNoDisk = errors.New("no such disk")

// ChooseDisk picks the disk with the GUID. None and more than one are errors: two disks with one GUID are
// copies of each other, and taking one of them would be a guess.
func ChooseDisk(guid string, disks []Disk) (Disk, error) {
	var match []Disk
	var seen []string
	for _, d := range disks {
		switch {
		case d.Err != nil:
			seen = append(seen, fmt.Sprintf("%s: %v", d.Device, d.Err))
		case d.GUID == guid:
			match = append(match, d)
		default:
			seen = append(seen, fmt.Sprintf("%s: GUID %s", d.Device, d.GUID))
		}
	}
	switch len(match) {
	case 1:
		return match[0], nil
	case 0:
		if len(seen) == 0 {
			return Disk{}, fmt.Errorf("%w: this kernel sees no disk at all", errNoDisk)
		}
		return Disk{}, fmt.Errorf("%w with the GUID %s (eos.disk=); there is %s", errNoDisk, guid, strings.Join(seen, "; "))
	}
	var names []string
	for _, d := range match {
		names = append(names, d.Device)
	}
	return Disk{}, fmt.Errorf("%s have the same GUID %s: one is a copy of the other, and which one is meant cannot be known; remove all but one",
		join(names), guid)
}

// join joins names for a sentence: "a, b and c".
func join(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// findDisk waits for the disk that the command line names.
func (b *Boot) findDisk() error {
	tables := map[string]*gpt.Table{}
	var (
		begin   = time.Now()
		changed = begin
		names   []string
	)
	for {
		// Waiting is not hanging, and it has an end.
		b.feedWatchdog()
		b.loadForDevices(nil)
		now, err := listDisks("/sys/block")
		if err != nil {
			return err
		}
		if !slices.Equal(now, names) {
			names, changed = now, time.Now()
		}
		disk, err := ChooseDisk(b.line.Disk, readTables(names, tables))
		switch {
		case err == nil && time.Since(changed) >= settle:
			b.disk, b.table = disk, tables[disk.Device]
			b.found.Disk, b.found.DiskGUID = disk.Device, disk.GUID
			return nil
		case err != nil && !errors.Is(err, errNoDisk):
			return err
		case err != nil && time.Since(begin) > diskWait:
			err = fmt.Errorf("%w (waited %d s)", err, int(diskWait.Seconds()))
			if len(b.noLoad) > 0 {
				err = fmt.Errorf("%w; %s", err, strings.Join(b.noLoad, "; "))
			}
			return err
		}
		time.Sleep(pollEvery)
	}
}

// readTables reads the partition tables that are not in tables yet.
func readTables(names []string, tables map[string]*gpt.Table) []Disk {
	var disks []Disk
	for _, name := range names {
		d := Disk{Device: "/dev/" + strings.ReplaceAll(name, "!", "/")}
		t := tables[d.Device]
		if t == nil {
			t, d.Err = readTable(d.Device, filepath.Join("/sys/block", name))
		}
		if t != nil {
			tables[d.Device] = t
			d.GUID = strings.ToLower(t.DiskGUID)
		}
		disks = append(disks, d)
	}
	return disks
}

func readTable(device, sys string) (*gpt.Table, error) {
	size, err := sysSectors(filepath.Join(sys, "size"))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return gpt.Read(f, size)
}

// notDisks are block devices that cannot hold slots: made by software, without a
// medium of their own, or boot areas of an eMMC.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|dm-|md|nbd|sr|fd)\d+$|^mmcblk\d+(boot\d+|rpmb)$`)

// listDisks returns the kernel names of all disks with a size.
func listDisks(sys string) ([]string, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if notDisks.MatchString(e.Name()) {
			continue
		}
		if size, err := sysSectors(filepath.Join(sys, e.Name(), "size")); err == nil && size > 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// sysSectors reads a file of sysfs that counts sectors of 512 bytes, which it
// does whatever the disk's own sectors are, and returns bytes.
func sysSectors(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		return 0, fmt.Errorf("read %s: %q is no size", file, b)
	}
	return n * 512, nil
}

// partitionNode returns the device of a partition: the one whose number and
// place are those of the table. It is fs.ErrNotExist while the kernel has none.
func partitionNode(sys string, p gpt.Partition) (string, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		dir := filepath.Join(sys, e.Name())
		number, err := os.ReadFile(filepath.Join(dir, "partition"))
		if err != nil || strings.TrimSpace(string(number)) != strconv.Itoa(p.Number) {
			continue
		}
		start, err := sysSectors(filepath.Join(dir, "start"))
		if err != nil {
			return "", err
		}
		size, err := sysSectors(filepath.Join(dir, "size"))
		if err != nil {
			return "", err
		}
		if start != p.Start || size != p.Size {
			return "", fmt.Errorf("kernel has partition %d at %d+%d, the partition table at %d+%d", p.Number, start, size, p.Start, p.Size)
		}
		return "/dev/" + strings.ReplaceAll(e.Name(), "!", "/"), nil
	}
	return "", fmt.Errorf("partition %d (%s): %w", p.Number, p.Name, fs.ErrNotExist)
}
