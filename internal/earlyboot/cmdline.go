package earlyboot

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
)

// CommandLine is what eos-init takes from the kernel's command line.
//
//	eos.slot=a|b        the slot to boot; from the slot's addon beside the kernel image, or from os-update
//	eos.disk=GUID       GPT GUID of the disk that the slot is on; likewise
//	COMMIT_UPDATE       this is the trial of a new slot
//	eos.watchdog=SEC    time-out of the hardware watchdog, 180 if not given, 0 to leave it alone
//	eos.panic=SEC       wait before the reset after a failed boot, 10 if not given, 0 to wait for ever
//	MODULE.PARAM=VALUE  parameter of a module that eos-init loads
type CommandLine struct {
	Words    []string // all of them, without what is for init, after "--"
	Slot     bootstate.Slot
	Disk     string // lower case
	Trial    bool
	Watchdog time.Duration
	Panic    time.Duration
	Notes    []string // words that were ignored, and why
}

const (
	defaultWatchdog = 180 * time.Second
	defaultPanic    = 10 * time.Second
	maxSeconds      = 24 * 60 * 60
)

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// ParseCommandLine parses a command line. Only what names the slot can be an error: what it
// is, where it should have come from. Of every other word the last one counts, and one
// that makes no sense is noted and ignored, because a boot with the usual
// setting is better than none. After an error the result is still good for anything but
// Slot and Disk.
func ParseCommandLine(text string) (CommandLine, error) {
	c := CommandLine{Words: splitWords(text), Watchdog: defaultWatchdog, Panic: defaultPanic}
	var slots, disks []string
	for _, w := range c.Words {
		if w == "COMMIT_UPDATE" {
			c.Trial = true
		}
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "eos.slot":
			slots = append(slots, value)
		case "eos.disk":
			disks = append(disks, strings.ToLower(value))
		case "eos.watchdog":
			c.seconds(w, value, &c.Watchdog)
		case "eos.panic":
			c.seconds(w, value, &c.Panic)
		}
	}
	slot, slotErr := one("eos.slot", slots)
	if slotErr == nil && slot != "a" && slot != "b" {
		slotErr = fmt.Errorf("eos.slot=%q is neither a nor b", slot)
	}
	disk, diskErr := one("eos.disk", disks)
	if diskErr == nil && !guid.MatchString(disk) {
		diskErr = fmt.Errorf("eos.disk=%q is not a GUID", disk)
	}
	if slotErr == nil {
		c.Slot = bootstate.Slot(slot)
	}
	if diskErr == nil {
		c.Disk = disk
	}
	switch {
	case slotErr != nil && diskErr != nil:
		return c, fmt.Errorf("%w, and %w", slotErr, diskErr)
	default:
		return c, errors.Join(slotErr, diskErr)
	}
}

// one returns the value of a word that has to be there. Given twice with the same value is
// fine; with two values it would be a guess.
func one(key string, values []string) (string, error) {
	slices.Sort(values)
	switch values = slices.Compact(values); len(values) {
	case 0:
		return "", fmt.Errorf("%s= is missing on the kernel command line (it comes from slot.addon.efi in the .extra.d folder beside "+
			"the kernel image, or from os-update)", key)
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%s= is on the kernel command line with different values: %s", key, strings.Join(values, ", "))
	}
}

func (c *CommandLine) seconds(word, value string, d *time.Duration) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n > maxSeconds {
		c.Notes = append(c.Notes, fmt.Sprintf("%s ignored: want 0 to %d seconds", word, maxSeconds))
		return
	}
	*d = time.Duration(n) * time.Second
}

// splitWords splits like the kernel does: at white space outside of double quotes, which are
// dropped. It stops at "--", behind which init's own arguments are.
func splitWords(text string) []string {
	var (
		words  []string
		word   strings.Builder
		quoted bool
		inWord bool
	)
	flush := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for _, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
			inWord = true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			flush()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	flush()
	if i := slices.Index(words, "--"); i >= 0 {
		words = words[:i]
	}
	return words
}
