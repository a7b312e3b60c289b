package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/vm"
)

// bootStages are the stages of a boot, in their order, and after them what they add up to. Those
// up to the kernel are timed by the host, by what comes on the serial console; the others by the
// guest.
var bootStages = []string{
	"firmware, until GRUB starts",
	"GRUB, until it hands over (EOS: slot)",
	"kernel, until eos-init starts",
	"eos-init, until it switches root",
	"systemd, until ssh.service",
	"power-on to ssh.service",
	"power-on to the first answer of ssh",
	"power-on to boot-complete.target",
	"power-on to the boot marked good",
}

// measureBoot boots the image from cold.
func measureBoot(ctx context.Context, l *lab) error {
	image, err := l.old(ctx, "1.0.0")
	if err != nil {
		return err
	}
	stages := make([][]time.Duration, len(bootStages))
	steps := map[string][]time.Duration{}
	var order []string
	for i := range l.runs {
		l.note("cold boot %d of %d", i+1, l.runs)
		b, err := l.bootOnce(ctx, vm.Config{Image: image.Raw})
		if err != nil {
			return err
		}
		for j, d := range b.stages {
			stages[j] = append(stages[j], d)
		}
		order = order[:0]
		for _, t := range b.device.Timings {
			if t.Step == "kernel" {
				continue // is no step, but the time before the first
			}
			order = append(order, t.Step)
			steps[t.Step] = append(steps[t.Step], time.Duration(t.MS)*time.Millisecond)
		}
	}
	for j, name := range bootStages {
		l.add(seconds(name, stages[j]...))
	}
	for _, step := range order {
		if m := median(steps[step]); m >= 100*time.Millisecond {
			l.add(seconds("eos-init: "+step, steps[step]...))
		}
	}
	return nil
}

type bootTimes struct {
	stages         []time.Duration
	answered, good time.Duration // those of them that count, from power-on
	device         device.Device
}

// bootOnce boots a new machine from cold.
func (l *lab) bootOnce(ctx context.Context, c vm.Config) (*bootTimes, error) {
	g, err := l.start(ctx, c)
	if err != nil {
		return nil, err
	}
	defer g.end()
	return g.boot(ctx)
}

// boot watches a machine boot that was powered on just now.
func (g *guest) boot(ctx context.Context) (*bootTimes, error) {
	firmware, _, err := g.await(ctx, `BdsDxe: starting`)
	if err != nil {
		return nil, err
	}
	grub, _, err := g.await(ctx, `EOS: slot a`)
	if err != nil {
		return nil, err
	}
	kernel, began, err := g.awaitKernel(ctx, `Run /init as init process`)
	if err != nil {
		return nil, err
	}
	_, switched, err := g.awaitKernel(ctx, `eos-init: slot a version .* switching root`)
	if err != nil {
		return nil, err
	}
	probe := g.probe(ctx)
	_, answered, err := probe.around(ctx, g.power, g.power)
	probe.stop()
	if err != nil {
		return nil, err
	}
	// Not by what systemd says on the console: it leaves out lines when the console is slow.
	at, err := g.reached(ctx, "ssh.service", "boot-complete.target", "os-update-commit.service")
	if err != nil {
		return nil, err
	}
	text, err := g.must(ctx, "cat "+device.BootFile)
	if err != nil {
		return nil, err
	}
	before := kernel.at.Sub(g.power) - began // power-on to the start of the guest's clock
	b := &bootTimes{answered: answered.Sub(g.power), good: before + at[2]}
	b.stages = []time.Duration{
		firmware.at.Sub(g.power), grub.at.Sub(firmware.at), kernel.at.Sub(grub.at),
		switched - began, at[0] - switched,
		before + at[0], b.answered, before + at[1], b.good,
	}
	if err := json.Unmarshal([]byte(text), &b.device); err != nil {
		return nil, fmt.Errorf("read %s: %w", device.BootFile, err)
	}
	return b, nil
}
