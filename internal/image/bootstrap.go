package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/toolstree"
)

// A bootstrap says which Debian root to fetch. Two equal ones share one cached
// archive.
type bootstrap struct {
	Suite    string
	Arch     string
	Mirror   string
	Packages []string // sorted, without duplicates
}

func (b bootstrap) key() string {
	h := sha256.New()
	fmt.Fprintf(h, "eos root archive 1\n%s\n%s\n%s\n%s\n", b.Suite, b.Arch, b.Mirror, noInitramfs)
	for _, p := range b.Packages {
		fmt.Fprintln(h, p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// noInitramfs keeps the kernel package from making an initramfs: ours is
// another, and making that one takes a third of the whole bootstrap.
const noInitramfs = `chroot "$1" dpkg-divert --quiet --local --rename ` +
	`--divert /usr/sbin/update-initramfs.package --add /usr/sbin/update-initramfs && ` +
	`ln -s /bin/true "$1/usr/sbin/update-initramfs"`

// A rootArchive is a bootstrapped root in the cache.
type rootArchive struct {
	Path    string    `json:"-"`
	Key     string    `json:"key"`
	SHA256  string    `json:"sha256"`
	Started time.Time `json:"started"` // files older than this come from packages
}

// fetchRoot returns the root archive of b from the cache and makes it first
// when it is missing, or when refresh asks for the packages of today.
func fetchRoot(ctx context.Context, cache string, b bootstrap, refresh bool) (*rootArchive, error) {
	key := b.key()
	archive := &rootArchive{Path: filepath.Join(cache, "root-"+key+".tar"), Key: key}
	about := filepath.Join(cache, "root-"+key+".json")
	if !refresh {
		text, err := os.ReadFile(about)
		if err == nil {
			err = json.Unmarshal(text, archive)
		}
		if _, statErr := os.Stat(archive.Path); err == nil && statErr == nil && archive.Key == key {
			// What is used stays in the cache.
			now := time.Now()
			if err := os.Chtimes(archive.Path, now, now); err != nil {
				return nil, fmt.Errorf("bootstrap root: %w", err)
			}
			return archive, nil
		}
	}
	archive.Started = time.Now().UTC()
	tmp, err := os.CreateTemp(cache, "root-"+key+".new-")
	if err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := b.run(ctx, tmp); err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	if archive.SHA256, err = hashFile(tmp.Name()); err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	if err := tmp.Close(); err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	// The description goes first away and comes last: an archive without it,
	// or with that of another, is not used.
	if err := os.Remove(about); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	if err := os.Rename(tmp.Name(), archive.Path); err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	text, err := json.Marshal(archive)
	if err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	if err := os.WriteFile(about, text, 0o644); err != nil {
		return nil, fmt.Errorf("bootstrap root: %w", err)
	}
	return archive, nil
}

// run has mmdebstrap write the root as a tar archive to out.
func (b bootstrap) run(ctx context.Context, out *os.File) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return toolstree.ErrNoMaker
	}
	argv := []string{
		"--variant=essential",
		"--format=tar",
		"--architectures=" + b.Arch,
		"--include=" + strings.Join(b.Packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--essential-hook=" + noInitramfs,
		b.Suite, "-",
	}
	if b.Mirror != "" {
		argv = append(argv, b.Mirror)
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", argv...)
	// It has mounts to take down, so it is asked to stop before it is made to.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout = out
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("mmdebstrap: %w: %s", err, complaint(said.String()))
	}
	return nil
}

// complaint picks the lines of mmdebstrap's output that say what is wrong.
func complaint(said string) string {
	var out []string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E:") && !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		lines := strings.Split(strings.TrimSpace(said), "\n")
		out = lines[max(0, len(lines)-3):]
	}
	return strings.Join(out[:min(len(out), 4)], "; ")
}

// sourceEpoch returns the newest time of a file that a package brought. It is
// the same for every builder who got the same packages.
func (a *rootArchive) sourceEpoch(t *tree) time.Time {
	newest := time.Unix(0, 0)
	// The archive has whole seconds: what was made in the second it was begun in looks older.
	started := a.Started.Truncate(time.Second)
	for _, p := range t.names() {
		// Configuration of the bootstrap, such as the list of mirrors, is below /etc.
		n := t.nodes[p]
		if !strings.HasPrefix(p, "/usr/") || n.typ != '0' {
			continue
		}
		if n.mtime.Before(started) && n.mtime.After(newest) {
			newest = n.mtime
		}
	}
	return newest.Truncate(time.Second).UTC()
}
