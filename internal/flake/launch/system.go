package launch

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
)

// Dir makes the folder where launchers of this user keep what they know of containers that
// run, and returns it. Nobody else can look into it.
func Dir() (string, error) {
	uid, dir := os.Geteuid(), Folder()
	if uid == 0 {
		if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make folder for flakes: %w", err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make folder for flakes: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("look at folder for flakes: %w", err)
	}
	if above, err := os.Lstat(filepath.Dir(dir)); uid == 0 && (err != nil || !above.IsDir() || above.Sys().(*syscall.Stat_t).Uid != 0 || above.Mode().Perm()&0o022 != 0) {
		return "", fmt.Errorf("look at folder for flakes: %s is not root's alone to change", filepath.Dir(dir))
	}
	if sys := st.Sys().(*syscall.Stat_t); !st.IsDir() || int(sys.Uid) != uid || st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("look at folder for flakes: %s is not this user's alone", dir)
	}
	return dir, nil
}

// Folder is what [Dir] makes.
func Folder() string {
	dir := filepath.Join(runtimeDir(), "flakes")
	if os.Geteuid() == 0 {
		dir = filepath.Join(dir, "0")
	}
	return dir
}

// runtimeDir is where programs of this user keep what is gone after a restart.
func runtimeDir() string {
	if os.Geteuid() == 0 {
		return "/run"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir
	}
	return "/run/user/" + strconv.Itoa(os.Geteuid())
}

// foreign tells whether this was called, with more rights, by another user.
func foreign() bool {
	for _, name := range []string{"SUDO_UID", "PKEXEC_UID", "DOAS_UID"} {
		if uid := os.Getenv(name); uid != "" && uid != "0" && os.Geteuid() == 0 {
			return true
		}
	}
	caller := os.Getenv("DOAS_USER")
	return caller != "" && caller != "root" && os.Geteuid() == 0
}

// home is that of the user this runs as, whatever the environment says.
func home() string {
	if os.Geteuid() == 0 {
		return "/root"
	}
	u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	if err != nil {
		return ""
	}
	return u.HomeDir
}

// ownEnvironment gives this process, and so podman, an environment in which a caller with fewer
// rights has no say, and returns what he has said. Who waits for the launcher to be ready does
// not wait for podman.
func ownEnvironment() (getenv func(string) string) {
	said := map[string]string{}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		said[name] = value
	}
	if foreign() {
		os.Clearenv()
		keep := map[string]string{"HOME": home(), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
		for _, name := range []string{"TERM", "LANG"} {
			keep[name] = said[name]
		}
		for name, value := range keep {
			if value != "" {
				_ = os.Setenv(name, value) // the names are good
			}
		}
	}
	_ = os.Unsetenv("NOTIFY_SOCKET")
	return func(name string) string { return said[name] }
}

// atTerminal tells whether input and output are a terminal that this process may use.
func atTerminal() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return isTerminal(os.Stdin) && isTerminal(os.Stdout) && err == nil && group == unix.Getpgrp()
}

// delegated tells whether the control group of this process is its own to divide, as that of a
// unit with Delegate=yes is. systemd notes it there.
func delegated() bool {
	text, err := os.ReadFile("/proc/self/cgroup")
	path, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "0::/")
	if err != nil || !ok || strings.Contains(path, "\n") {
		return false
	}
	value := make([]byte, 8)
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := unix.Getxattr(filepath.Join("/sys/fs/cgroup", path), name, value); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

var idText = regexp.MustCompile(`^[0-9a-f]{64}$`)

func validID(s string) bool { return idText.MatchString(s) }

// stores returns podman's folders of images. It is asked once in a boot.
func (j *job) stores(ctx context.Context) (assemble.Store, error) {
	if j.Memory {
		return assemble.Store{flake.InMemory()[1], flake.ImageStore}, nil
	}
	h := sha256.New()
	for _, path := range []string{j.StorageConf, os.Getenv("CONTAINERS_STORAGE_CONF"), "/etc/containers/storage.conf", "/usr/share/containers/storage.conf", filepath.Join(home(), ".config/containers/storage.conf")} {
		if st, err := os.Stat(path); err == nil {
			sys := st.Sys().(*syscall.Stat_t)
			fmt.Fprintln(h, path, sys.Ctim.Nano(), st.Size(), sys.Ino)
		}
	}
	memory := filepath.Join(j.Dir, fmt.Sprintf("stores-%x", h.Sum(nil)[:8]))
	if text, err := os.ReadFile(memory); err == nil {
		return strings.Split(strings.TrimSpace(string(text)), "\n"), nil
	}
	argv := j.Podman("info", "--format", "{{.Store.GraphDriverName}}\n{{.Store.GraphRoot}}\n{{json .Store.GraphOptions}}")
	j.Debug(argv)
	out, err := command.Output(ctx, j.command(argv))
	if err != nil {
		return nil, err
	}
	stores, err := parseStores(string(out))
	if err != nil {
		return nil, err
	}
	return stores, renameio.WriteFile(memory, []byte(strings.Join(stores, "\n")), 0o600)
}

// parseStores reads what podman says of its store.
func parseStores(text string) (assemble.Store, error) {
	lines := strings.SplitN(strings.TrimSpace(text), "\n", 3)
	var options map[string]any
	if len(lines) != 3 || !filepath.IsAbs(lines[1]) || json.Unmarshal([]byte(lines[2]), &options) != nil {
		return nil, fmt.Errorf("ask podman for its store: it says %.200q", text)
	}
	if lines[0] != "overlay" {
		return nil, fmt.Errorf("ask podman for its store: its driver is %s, want overlay", lines[0])
	}
	stores := assemble.Store{lines[1]}
	// Newer versions have all of them in a list, and one by the name that older ones have.
	for name, value := range options {
		one, _ := value.(string)
		more, _ := value.([]any)
		if strings.HasSuffix(name, ".imagestore") {
			more = []any{one}
		} else if !strings.HasSuffix(name, ".additionalImageStores") {
			continue
		}
		for _, m := range more {
			if dir, _ := m.(string); filepath.IsAbs(dir) && !strings.Contains(dir, "\n") && !slices.Contains(stores[1:], dir) {
				stores = append(stores, dir)
			}
		}
	}
	slices.Sort(stores[1:])
	return stores, nil
}
