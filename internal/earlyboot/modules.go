package earlyboot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
		for _, alias := range modaliases("/sys/devices") {
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

// modaliases returns the modalias of every device below dir, in the order of the paths. A device
// that goes away while they are read is no error.
func modaliases(dir string) []string {
	var found []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Name() != "modalias" || d.IsDir() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil {
			if alias := strings.TrimSpace(string(b)); alias != "" {
				found = append(found, alias)
			}
		}
		return nil
	})
	return found
}
