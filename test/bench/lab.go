package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/imagespec"
	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm"
)

// lab is what the parts share.
type lab struct {
	options
	dir     string // in the cache
	scratch string // gone with the program
	cache   string
	tree    *toolstree.Tree
	host    vm.Host
	report  report
	part    string
	built   map[string]*built
}

// built is an image.
type built struct {
	Raw, Slot string // paths
	SlotSize  int64
}

// newLab finds the programs and, for images, the tools tree and keys.
func newLab(ctx context.Context, o options, images bool) (*lab, error) {
	for _, name := range []string{"eos", "eos-init", "os-update", "os-update-daemon", "flake-registry", "flake-ctl", "podman-pilot"} {
		if _, err := os.Stat(filepath.Join(o.bin, name)); err != nil {
			return nil, fmt.Errorf("find programs: %w (make build makes them; run this from the top of the source tree)", err)
		}
	}
	cache, err := toolstree.CacheDir()
	if err != nil {
		return nil, err
	}
	l := &lab{options: o, cache: cache, dir: filepath.Join(cache, "bench"), built: map[string]*built{}}
	l.report.Machine = thisMachine()
	if rev, err := command.Output(ctx, command.Cmd{Argv: []string{"git", "describe", "--always", "--dirty"}}); err == nil {
		l.report.Machine.Commit = strings.TrimSpace(string(rev))
	}
	// Not in the cache: sockets have short paths.
	if l.scratch, err = os.MkdirTemp("", "eos-bench-"); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	if images {
		if err := l.openImages(ctx); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

// openImages gets what images are made and started with.
func (l *lab) openImages(ctx context.Context) (err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if l.tree, err = toolstree.Open(ctx, l.note); err != nil {
		return err
	}
	l.host = vm.Host{Tree: l.tree, Machines: l.scratch, Cache: l.cache}
	if _, err := os.Stat(filepath.Join(l.keys(), "root.json")); errors.Is(err, os.ErrNotExist) {
		return errors.Join(os.RemoveAll(l.keys()), l.eos(ctx, nil, "keys", "new"))
	}
	return nil
}

func (l *lab) close() { os.RemoveAll(l.scratch) }

func (l *lab) keys() string { return filepath.Join(l.dir, "keys") }

// add puts a figure into the report, and says it at once: the whole takes a while.
func (l *lab) add(f figure) {
	f.Part = l.part
	l.report.Figures = append(l.report.Figures, f)
	l.note("%s: %s", f.Name, human(f.Value, f.Unit))
}

func (l *lab) note(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "bench: %s %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, a...))
}

// eos runs the host tool as its user would, with more in its environment.
func (l *lab) eos(ctx context.Context, env []string, args ...string) error {
	return command.Run(ctx, command.Cmd{
		Argv: append([]string{filepath.Join(l.bin, "eos")}, args...),
		Env:  append([]string{"EOS_KEYS=" + l.keys()}, env...),
	})
}

// edit changes an image description.
type edit func(spec map[string]any)

func fromMirror(url string) edit {
	return func(spec map[string]any) {
		debian, _ := spec["debian"].(map[string]any)
		debian["mirror"] = url
	}
}

func withFile(path, content string) edit {
	return func(spec map[string]any) {
		files, _ := spec["files"].([]any)
		spec["files"] = append(files, map[string]any{"path": path, "content": content})
	}
}

// withRegistry gives the image a registry that is sealed to the machine's TPM, and what that needs.
func withRegistry(spec map[string]any) {
	packages, _ := spec["packages"].([]any)
	for _, p := range imagespec.RegistryPackages(imagespec.PolicyTPM2) {
		packages = append(packages, p)
	}
	spec["packages"] = packages
	spec["registry"] = map[string]any{"policy": imagespec.PolicyTPM2}
}

// image builds images/minimal.yaml with the edits applied, for one to log in.
func (l *lab) image(ctx context.Context, version string, edits ...edit) (*built, error) {
	if b := l.built[version]; b != nil {
		return b, nil
	}
	text, err := os.ReadFile("images/minimal.yaml")
	if err != nil {
		return nil, fmt.Errorf("read image description: %w", err)
	}
	var spec map[string]any
	if err := yaml.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("read images/minimal.yaml: %w", err)
	}
	spec["version"], spec["outputs"] = version, []any{"raw"}
	for _, e := range edits {
		e(spec)
	}
	if text, err = yaml.Marshal(spec); err != nil {
		return nil, fmt.Errorf("write image description: %w", err)
	}
	dir := filepath.Join(l.dir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	stem := filepath.Join(dir, "minimal-"+version)
	if err := os.WriteFile(stem+".yaml", text, 0o644); err != nil {
		return nil, fmt.Errorf("write image description: %w", err)
	}
	l.note("building minimal %s", version)
	if err := l.eos(ctx, nil, "build", "-f", stem+".yaml", "-o", dir, "--dev"); err != nil {
		return nil, err
	}
	b := &built{Raw: stem + ".raw", Slot: stem + ".slot"}
	fi, err := os.Stat(b.Slot)
	if err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	b.SlotSize = fi.Size()
	l.built[version] = b
	return b, nil
}

// old is what a device runs: Debian as its last point release has it.
func (l *lab) old(ctx context.Context, version string, edits ...edit) (*built, error) {
	mirror, err := l.mirror()
	if err != nil {
		return nil, err
	}
	return l.image(ctx, version, append([]edit{fromMirror(mirror)}, edits...)...)
}

// mirror is where the tools tree's packages come from. Naming one mirror leaves out what was
// published in updates and security since the point release.
func (l *lab) mirror() (string, error) {
	text, err := os.ReadFile(l.tree.Path("/etc/apt/sources.list"))
	if err != nil {
		return "", fmt.Errorf("find mirror: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) >= 3 && words[0] == "deb" && words[2] == toolstree.Suite {
			return words[1], nil
		}
	}
	return "", fmt.Errorf("find mirror: none of %s in %s", toolstree.Suite, l.tree.Path("/etc/apt/sources.list"))
}
