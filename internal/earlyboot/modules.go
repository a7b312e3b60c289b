package earlyboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/kmod"
)

const modulesDir = "/usr/lib/modules"

// rootModules are needed by every boot, whatever the hardware.
var rootModules = []string{"dm-mod", "dm-verity", "squashfs"}

// openModules reads the index of the modules in the initramfs, once.
func (b *Boot) openModules() error {
	if b.loader != nil {
		return nil
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	release := unix.ByteSliceToString(u.Release[:])
	dir := filepath.Join(modulesDir, release)
	index, err := kmod.Open(os.DirFS(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no modules for the running kernel %s in this initramfs: %w", release, err)
	}
	if err != nil {
		return err
	}
	b.loader = &kmod.Loader{Index: index, Dir: dir, Params: kmod.Params(b.line.Words, "eos", "systemd", "udev", "rd")}
	b.tried = map[string]bool{}
	return nil
}

// loadModules loads the drivers of what is there by now, and what every boot
// needs. Only the latter can end the boot; that a disk's driver did not load
// matters if the disk is not found.
func (b *Boot) loadModules() error {
	if err := b.openModules(); err != nil {
		return err
	}
	// The fast SHA-256 has to be there before dm-verity looks for one, so
	// devices come first; the CPU is one.
	b.loadForDevices(nil)
	for _, name := range rootModules {
		if err := b.loader.Load(name); err != nil {
			return err
		}
	}
	return nil
}

// loadForDevices loads the modules of all devices that were not seen before, or
// only those that want accepts; a new driver may make new devices, so it looks
// again until nothing is new.
func (b *Boot) loadForDevices(want func(name, path string) bool) {
	for {
		loaded := 0
		for _, alias := range modaliases("/sys") {
			if b.tried[alias] {
				continue
			}
			// With a filter, the alias has to be looked at again without it.
			if want == nil {
				b.tried[alias] = true
			}
			for _, name := range b.loader.Index.Match(alias) {
				if want != nil && (!want(name, b.loader.Index.Path(name)) || b.tried["module "+name]) {
					continue
				}
				b.tried["module "+name] = true
				loaded++
				if err := b.loader.Load(name); err != nil {
					b.log.printf(levelWarning, "%v", err)
					b.noLoad = append(b.noLoad, err.Error())
				}
			}
		}
		if loaded == 0 {
			return
		}
	}
}

// modaliases returns the modalias of every device on a bus, by bus and name, and of
// the CPU, each once. A device that goes away while they are read is no error.
func modaliases(sys string) []string {
	// One level of links per bus: walking all of /sys/devices takes half a
	// second on a small machine, and this is done several times.
	files, _ := filepath.Glob(filepath.Join(sys, "bus", "*", "devices", "*", "modalias"))
	files = append(files, filepath.Join(sys, "devices", "system", "cpu", "modalias"))
	var found []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if alias := strings.TrimSpace(string(b)); alias != "" && !slices.Contains(found, alias) {
			found = append(found, alias)
		}
	}
	return found
}
