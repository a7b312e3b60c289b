package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// A folder of a registry, and where the system has it.
type folder struct {
	name string
	mode os.FileMode
	at   string
}

// deviceFolders are the device's own state: in the built-in registry, whichever is active.
var deviceFolders = []folder{
	{"eos", 0o755, "/var/lib/eos"},
	{"tmp", os.ModeSticky | 0o777, "/var/tmp"},
}

// homeFolder is for the folders of users, where the image has any.
var homeFolder = folder{"home", 0o755, "/home"}

// flakeFolders are in the active registry.
var flakeFolders = []folder{
	{"storage", 0o711, "/var/lib/containers/storage"},
	{"flakes", 0o755, "/var/lib/flakes"},
	{"firecracker", 0o755, "/var/lib/firecracker"},
}

var journalFolder = folder{"journal", 0o755, "/var/log/journal"}

// stateFolders are below /var/lib/eos.
var stateFolders = []folder{
	{"ssh", 0o700, ""},     // host keys
	{"fleet", 0o700, ""},   // the device's own key for its update server
	{"network", 0o755, ""}, // settings of systemd-networkd
}

// machineIDFile is in the built-in registry.
const machineIDFile = "eos/machine-id"

// StorageDir is where the active registry's containers are.
const StorageDir = "/var/lib/containers/storage"

// ownFolders are the device's own state on this image.
func (s *System) ownFolders() []folder {
	if s.Config.Journal {
		return append(deviceFolders[:len(deviceFolders):len(deviceFolders)], journalFolder)
	}
	return deviceFolders
}

// makeFolders makes what is missing of folders in a registry.
func makeFolders(root string, list []folder) error {
	for _, f := range list {
		path := filepath.Join(root, f.name)
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make folder in the registry: %w", err)
		} else if err == nil {
			if err := os.Chmod(path, f.mode); err != nil {
				return fmt.Errorf("make folder in the registry: %w", err)
			}
		}
	}
	return nil
}

// furnish makes a registry's folders, with the identity of the device in the built-in one.
func (s *System) furnish(ctx context.Context, root string, builtin bool, machineID string) error {
	if err := makeFolders(root, flakeFolders); err != nil {
		return err
	}
	// Where podman unpacks what it pulls; it does not make the folder.
	if err := makeFolders(filepath.Join(root, "storage"), []folder{{"tmp", 0o700, ""}}); err != nil || !builtin {
		return err
	}
	if err := makeFolders(root, s.ownFolders()); err != nil {
		return err
	}
	state := filepath.Join(root, "eos")
	if err := makeFolders(state, stateFolders); err != nil {
		return err
	}
	if err := makeHostKey(ctx, filepath.Join(state, "ssh")); err != nil {
		return err
	}
	return s.keepMachineID(filepath.Join(root, machineIDFile), machineID)
}

// showHomes makes the folders of users appear, which are in the registry. No registry is held to
// be broken for want of them, least of all a full one that a newer image wants them in.
func (s *System) showHomes() error {
	entries, err := os.ReadDir(homeFolder.at)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		err = makeFolders(builtinRoot, []folder{homeFolder})
	}
	if err == nil {
		err = makeHomes(filepath.Join(builtinRoot, homeFolder.name), homeFolder.at)
	}
	if err != nil {
		return err
	}
	return appear(builtinRoot, []folder{homeFolder})
}

// makeHomes makes in the registry what is missing of the folders of users that the image has.
func makeHomes(homes, ofImage string) error {
	entries, err := os.ReadDir(ofImage)
	if err != nil {
		return fmt.Errorf("make folders of users: %w", err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || !st.IsDir() {
			continue
		}
		path := filepath.Join(homes, e.Name())
		if err := os.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("make folders of users: %w", err)
		}
		owner := st.Sys().(*syscall.Stat_t)
		if err := errors.Join(os.Chown(path, int(owner.Uid), int(owner.Gid)), os.Chmod(path, st.Mode().Perm())); err != nil {
			return fmt.Errorf("make folders of users: %w", err)
		}
	}
	return nil
}

// keepMachineID keeps the machine id in the registry also. The one there is the older: where the
// partition table has lost it, Grow takes it from here, and the next boot has it again.
func (s *System) keepMachineID(path, now string) error {
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) == now {
		return nil
	}
	if err == nil && len(strings.TrimSpace(string(old))) == 32 {
		s.note("this boot has machine id %s, the registry belongs to %s; the next boot has that again", now, strings.TrimSpace(string(old)))
		return nil
	}
	if err := renameio.WriteFile(path, []byte(now+"\n"), 0o444); err != nil {
		return fmt.Errorf("keep machine id: %w", err)
	}
	return nil
}

// MachineID returns the machine id of this boot.
func MachineID() (string, error) { return readMachineID("/etc/machine-id") }

func readMachineID(path string) (string, error) {
	b, err := os.ReadFile(path)
	id := strings.TrimSpace(string(b))
	if err == nil && len(id) != 32 {
		err = fmt.Errorf("%q is no machine id", id)
	}
	if err != nil {
		return "", fmt.Errorf("read machine id: %w", err)
	}
	return id, nil
}
