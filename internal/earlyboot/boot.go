// Package earlyboot is eos-init, process 1 of the initramfs: it finds the slot that
// the command line names, makes sure that every byte of it can be trusted, and
// hands over to the init in it.
//
// [Main] is all of it. [Steps] is the boot as a table, in order; each step is timed, and
// the first that fails ends the boot: the console says which step failed and why, and the
// machine is reset so that the boot loader can fall back. What the command line
// may say is written down at [CommandLine], what is left for the system that was booted is
// a [device.Device] in /run/eos/boot.json. docs/design/early-boot.md has the whole story.
//
// Nothing is written to any disk, nothing is asked, and no other program runs. Not
// supported: roots that are not slots, network, encryption, a shell to repair things with.
//
// The package runs once, on one goroutine, as process 1. A Go panic in a step is a failed step. A cut
// at any time leaves the machine as it was.
package earlyboot

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/gpt"
	"github.com/OSInside/eos/internal/kmod"
	"github.com/OSInside/eos/internal/slotimage"
)

// Step is one entry of the boot's table.
type Step struct {
	Name string
	Do   func(*Boot) error
}

// Steps returns the boot, first step first.
func Steps() []Step {
	return []Step{
		{"mounts", (*Boot).mountPseudo},
		{"command line", (*Boot).readCommandLine},
		{"watchdog", (*Boot).armWatchdog},
		{"modules", (*Boot).loadModules},
		{"disk", (*Boot).findDisk},
		{"slot", (*Boot).findSlot},
		{"manifest", (*Boot).readManifest},
		{"signature", (*Boot).verifyManifest},
		{"build id", (*Boot).matchBuild},
		{"verity", (*Boot).mapSlot},
		{"root", (*Boot).mountRoot},
		{"machine id", (*Boot).writeMachineID},
		{"report", (*Boot).writeReport},
		{"switch root", (*Boot).switchRoot},
		{"init", (*Boot).execInit},
	}
}

// Boot is what the steps hand on to each other.
type Boot struct {
	log      *kernelLog
	start    time.Time
	kernelMS int64 // from the kernel's start to ours
	timings  []device.Timing

	line     CommandLine
	watchdog *os.File
	loader   *kmod.Loader
	tried    map[string]bool // modaliases that were looked up
	noLoad   []string        // modules that did not load, with the reason

	disk  Disk
	table *gpt.Table
	found device.Device // filled in bit by bit
	slot  *os.File      // the slot's partition
	size  int64
	block *slotimage.Block

	manifest *slotimage.Manifest
}

// Main runs the boot. It does not return.
func Main() {
	b := &Boot{start: time.Now(), log: openLog()}
	b.line.Panic = defaultPanic // until the command line is read
	b.kernelMS = sinceKernelStart().Milliseconds()
	step, err := b.run(Steps())
	b.fail(step, err)
}

// run does the steps in order and returns the one that failed.
func (b *Boot) run(steps []Step) (string, error) {
	for _, s := range steps {
		begin := time.Now()
		if err := guarded(s.Do, b); err != nil {
			return s.Name, err
		}
		b.timings = append(b.timings, device.Timing{Step: s.Name, MS: time.Since(begin).Milliseconds()})
	}
	return steps[len(steps)-1].Name, fmt.Errorf("internal error: it came back")
}

// guarded makes an error of a panic. Process 1 must not end: that would be a
// panic of the kernel, without a word about the slot.
func guarded(do func(*Boot) error, b *Boot) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v%s", r, where(string(debug.Stack())))
		}
	}()
	return do(b)
}

// where picks the place of the panic out of a stack: the line below the function
// that follows the last call of panic.
func where(stack string) string {
	_, after, ok := strings.Cut(stack, "panic(")
	lines := strings.Split(after, "\n")
	if !ok || len(lines) < 4 {
		return ""
	}
	place, _, _ := strings.Cut(strings.TrimSpace(lines[3]), " ")
	return " at " + place
}

// summary is the one line that a good boot says about itself.
func (b *Boot) summary() string {
	var s strings.Builder
	fmt.Fprintf(&s, "slot %s version %s verified, switching root after %d ms (", b.line.Slot, b.manifest.Version,
		time.Since(b.start).Milliseconds())
	for i, t := range b.timings {
		if i > 0 {
			s.WriteString(", ")
		}
		fmt.Fprintf(&s, "%s %d", t.Step, t.MS)
	}
	fmt.Fprintf(&s, "; kernel %d)", b.kernelMS)
	return s.String()
}
