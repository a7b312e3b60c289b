package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/OSInside/eos/internal/vm"
)

// The disk of a device is larger than its image; the second one is for comparison.
const (
	deviceDisk = 4 << 30
	secondDisk = 2 << 30
)

// boots are times of several boots.
type boots struct {
	answered, good []time.Duration // from power-on
	unit           []time.Duration // how long registry-rw.service took
}

// rates are throughputs in MB/s, by the name of what was written and read.
type rates map[string][]float64

// measureRegistry sets an image with an encrypted registry beside the same without one, in its
// first boot, which makes the registry, and in a later one, which opens it; then writes to and
// reads from the registry.
func measureRegistry(ctx context.Context, l *lab) error {
	off, err := l.old(ctx, "1.0.0")
	if err != nil {
		return err
	}
	on, err := l.old(ctx, "1.2.0", withRegistry)
	if err != nil {
		return err
	}
	var without, first, later boots
	write, read := rates{}, rates{}
	for i := range l.runs {
		l.note("boots without and with a registry, %d of %d", i+1, l.runs)
		b, err := l.bootOnce(ctx, vm.Config{Image: off.Raw, DiskSize: deviceDisk, RegistrySize: secondDisk})
		if err != nil {
			return err
		}
		without.add(b)
		if err := l.registryRun(ctx, on, &first, &later, write, read); err != nil {
			return err
		}
	}
	l.add(size("slot image", on.SlotSize).with("no registry", size("", off.SlotSize)))
	for _, x := range []struct {
		when string
		boots
	}{{"first boot", first}, {"later boots", later}} {
		l.add(seconds("power-on to the first answer of ssh, "+x.when, x.answered...).with("no registry", seconds("", without.answered...)))
		l.add(seconds("power-on to the boot marked good, "+x.when, x.good...).with("no registry", seconds("", without.good...)))
	}
	l.add(seconds("registry-rw.service, first boot", first.unit...).with("later boots", seconds("", later.unit...)))
	for _, x := range []struct {
		what string
		rates
	}{{"write", write}, {"read", read}} {
		for _, name := range []string{"registry", "XFS, not encrypted"} {
			l.add(rate(fmt.Sprintf("%s: %s, %d MiB", name, x.what, ddSize), x.rates[name]...).with("raw disk", rate("", x.rates["raw disk"]...)))
		}
	}
	return nil
}

// registryRun takes a new machine through its first two boots, and its disks through one round.
func (l *lab) registryRun(ctx context.Context, image *built, first, later *boots, write, read rates) error {
	g, err := l.start(ctx, vm.Config{Image: image.Raw, DiskSize: deviceDisk, RegistrySize: secondDisk})
	if err != nil {
		return err
	}
	defer func() { g.end() }()
	if err := g.bootRegistry(ctx, first); err != nil {
		return err
	}
	next, err := g.again(ctx)
	if err != nil {
		return err
	}
	g = next
	if err := g.bootRegistry(ctx, later); err != nil {
		return err
	}
	return g.throughput(ctx, write, read)
}

func (b *boots) add(t *bootTimes) {
	b.answered, b.good = append(b.answered, t.answered), append(b.good, t.good)
}

// bootRegistry watches a boot that has to end with a registry that works.
func (g *guest) bootRegistry(ctx context.Context, b *boots) error {
	t, err := g.boot(ctx)
	if err != nil {
		return err
	}
	if _, err := g.must(ctx, "flake-registry --status"); err != nil {
		return err
	}
	const unit = "registry-rw.service"
	began, err := g.times(ctx, "InactiveExitTimestampMonotonic", unit)
	if err != nil {
		return err
	}
	ended, err := g.reached(ctx, unit)
	if err != nil {
		return err
	}
	b.add(t)
	b.unit = append(b.unit, ended[0]-began[0])
	return nil
}

// places are what is written to and read from: the second disk as it is, a file system on it, and
// the registry. Each is written once before, so that nothing has to find room while it is measured.
var places = []struct {
	name, file    string
	at            int // MiB from the beginning
	before, after string
}{
	// Behind the file system, which stays.
	{name: "raw disk", file: "/dev/vdb", at: 1024},
	{name: "XFS, not encrypted", file: "/run/bench/file", before: "mkdir -p /run/bench && mount /dev/vdb /run/bench", after: "umount /run/bench"},
	{name: "registry", file: "/var/tmp/bench", before: "findmnt -no SOURCE -T /var/tmp | grep -q ^/dev/mapper/eos-registry", after: "rm /var/tmp/bench"},
}

// throughput writes and reads each place once, past the guest's cache.
func (g *guest) throughput(ctx context.Context, write, read rates) error {
	if _, err := g.must(ctx, "mkfs.xfs -q -f -K -d size=1g -c options=/usr/share/xfsprogs/mkfs/lts_6.1.conf /dev/vdb"); err != nil {
		return err
	}
	for _, p := range places {
		if p.before != "" {
			if _, err := g.must(ctx, p.before); err != nil {
				return err
			}
		}
		in := fmt.Sprintf("if=/dev/zero of=%s seek=%d oflag=direct conv=notrunc,fsync", p.file, p.at)
		if _, err := g.dd(ctx, in); err != nil {
			return err
		}
		for _, x := range []struct {
			rates rates
			args  string
		}{{write, in}, {read, fmt.Sprintf("if=%s skip=%d of=/dev/null iflag=direct", p.file, p.at)}} {
			r, err := g.dd(ctx, x.args)
			if err != nil {
				return err
			}
			x.rates[p.name] = append(x.rates[p.name], r)
		}
		if p.after != "" {
			if _, err := g.must(ctx, p.after); err != nil {
				return err
			}
		}
	}
	return nil
}

// ddSize is how many MiB are written and read.
const ddSize = 256

var copied = regexp.MustCompile(`copied, ([0-9.e+-]+) s`)

// dd runs the program of that name without anything in the guest's cache and returns its MB/s.
func (g *guest) dd(ctx context.Context, args string) (float64, error) {
	out, err := g.must(ctx, fmt.Sprintf("sync; echo 3 >/proc/sys/vm/drop_caches; LC_ALL=C dd bs=1M count=%d %s 2>&1", ddSize, args))
	if err != nil {
		return 0, err
	}
	m := copied.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("run dd %s in guest: printed %q", args, out)
	}
	s, err := strconv.ParseFloat(m[1], 64)
	if err != nil || s <= 0 {
		return 0, fmt.Errorf("run dd %s in guest: took %q seconds", args, m[1])
	}
	return ddSize << 20 / 1e6 / s, nil
}
