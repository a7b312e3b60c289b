package assemble

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
)

// Media types of the OCI image specification 1.0.
const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor is that of the OCI image specification.
type descriptor struct {
	Type   string `json:"mediaType"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// make has podman make an image: out of a folder in the layout of the OCI, of whose layers
// only those are in it that podman has not.
func (o *Options) make(ctx context.Context, r *flake.Registration, p *plan) error {
	dir, err := o.folder()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config, err := o.config(ctx, p)
	if err != nil {
		return err
	}
	var layers []descriptor
	var all tree
	defer func() { all.close() }()
	for _, chain := range p.chains {
		t, err := openTree(chain)
		if err != nil {
			return err
		}
		all = append(t, all...)
		for _, l := range slices.Backward(chain) {
			if l.Diff == "" {
				return fmt.Errorf("read container store: layer %.12s has no sum", l.ID)
			}
			layers = append(layers, descriptor{layerType, l.Diff, l.Size})
		}
	}
	if len(p.host) > 0 || len(r.Include.Tar) > 0 || len(r.Include.Path) > 0 {
		l, err := writeHost(dir, all, r, p.host)
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	if err := writeLayout(dir, config, layers); err != nil {
		return err
	}
	return o.load(ctx, dir, p.name)
}

// folder makes one below the store, where there is room, and removes what was left there.
func (o *Options) folder() (string, error) {
	parent := filepath.Join(o.Store[0], "tmp")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	left, err := filepath.Glob(filepath.Join(parent, Unfinished+"*"))
	if err != nil {
		return "", err
	}
	for _, l := range left {
		if err := os.RemoveAll(l); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(parent, Unfinished)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700)
}

// config is that of the lowest image with that of the others upon it.
func (o *Options) config(ctx context.Context, p *plan) (map[string]json.RawMessage, error) {
	args := []string{"image", "inspect", "--format", "{{json .Config}}"}
	for _, i := range p.images {
		args = append(args, i.ID)
	}
	text, err := command.Output(ctx, o.command(args...))
	if err != nil {
		return nil, err
	}
	var out map[string]json.RawMessage
	d := json.NewDecoder(bytes.NewReader(text))
	for _, i := range p.images {
		var c map[string]json.RawMessage
		if err = d.Decode(&c); err == nil {
			out, err = mergeConfig(out, c)
		}
		if err != nil {
			return nil, fmt.Errorf("read configuration of container %.12s: %w", i.ID, err)
		}
	}
	return out, nil
}

// mergeConfig lays the configuration of an image over that of the one below it. Variables and
// labels are merged one by one; what starts by itself, and with what arguments, belongs together.
func mergeConfig(below, over map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for k, v := range below {
		out[k] = v
	}
	set := func(k string) bool {
		return !slices.Contains([]string{"", "null", `""`, "{}", "[]"}, string(over[k]))
	}
	if set("Entrypoint") || set("Cmd") {
		delete(out, "Entrypoint")
		delete(out, "Cmd")
	}
	for k, v := range over {
		switch {
		case !set(k):
		case k == "Labels" && out[k] != nil:
			labels := map[string]string{}
			if err := errors.Join(json.Unmarshal(out[k], &labels), json.Unmarshal(v, &labels)); err != nil {
				return nil, err
			}
			out[k], _ = json.Marshal(labels)
		case k == "Env" && out[k] != nil:
			var env, more []string
			if err := errors.Join(json.Unmarshal(out[k], &env), json.Unmarshal(v, &more)); err != nil {
				return nil, err
			}
			for _, m := range more {
				name, _, _ := strings.Cut(m, "=")
				env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
			}
			out[k], _ = json.Marshal(append(env, more...))
		default:
			out[k] = v
		}
	}
	return out, nil
}

// room is how many bytes a layer may have that is written beside f and then taken into the store,
// which is a second time.
func room(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("look for free space: %w", err)
	}
	return int64(st.Bavail) * st.Bsize / 2, nil
}

// writeHost writes the layer of what comes from the host.
func writeHost(dir string, below tree, r *flake.Registration, host []hostFile) (d descriptor, err error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	free, err := room(f)
	if err != nil {
		return d, err
	}
	sum := sha256.New()
	size := new(counter)
	l := newLayerWriter(below, io.MultiWriter(f, sum, size), free)
	for _, h := range host {
		// Rights that a file has by itself are those of the host's users.
		if err := l.file(h.path, strings.TrimPrefix(h.path, "/"), h.info, true); err != nil {
			return d, err
		}
	}
	for _, file := range r.Include.Tar {
		if err := l.archive(file); err != nil {
			return d, err
		}
	}
	for _, path := range r.Include.Path {
		if err := l.path(path); err != nil {
			return d, err
		}
	}
	if err := l.out.Close(); err != nil {
		return d, err
	}
	name := hex.EncodeToString(sum.Sum(nil))
	return descriptor{layerType, "sha256:" + name, int64(*size)}, os.Rename(f.Name(), filepath.Join(dir, "blobs/sha256", name))
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// writeLayout writes the rest of the folder.
func writeLayout(dir string, config map[string]json.RawMessage, layers []descriptor) error {
	var sums []string
	for _, l := range layers {
		sums = append(sums, l.Digest)
	}
	c, err := writeBlob(dir, configType, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": sums},
	})
	if err != nil {
		return err
	}
	m, err := writeBlob(dir, manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": c, "layers": layers})
	if err != nil {
		return err
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{m}})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600))
}

func writeBlob(dir, kind string, v any) (descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	name := fmt.Sprintf("%x", sha256.Sum256(text))
	return descriptor{kind, "sha256:" + name, int64(len(text))}, os.WriteFile(filepath.Join(dir, "blobs/sha256", name), text, 0o600)
}

// load has podman take the image, gives it its name alone, and removes those it replaces.
func (o *Options) load(ctx context.Context, dir, name string) error {
	// Podman makes a name of the path, so that is a short one.
	c := o.command("pull", "--quiet", "oci:"+filepath.Base(dir))
	c.Dir = filepath.Dir(dir)
	out, err := command.Output(ctx, c)
	if err != nil {
		return err
	}
	id := strings.TrimSpace(string(out))
	if !imageID.MatchString(id) {
		return fmt.Errorf("have podman make an image: it says %.100q", out)
	}
	// Podman flushes its tables, not the files of layers: what has the name has to be whole.
	if err := o.Store.Sync(); err != nil {
		return err
	}
	if err := command.Run(ctx, o.command("tag", id, name)); err != nil {
		return err
	}
	all, err := o.Store.Images()
	if err != nil {
		return err
	}
	// Of all that podman has named like a folder here, only this one is to stay.
	for _, i := range all {
		for _, n := range i.Names {
			verb := []string{"image", "rm"}
			if i.ID == id {
				verb = []string{"untag", id}
			}
			if strings.HasPrefix(n, "localhost/"+Unfinished) {
				if err := command.Run(ctx, o.command(append(verb, n)...)); err != nil {
					return err
				}
			}
		}
	}
	for _, old := range stale(all, name) {
		// One that a container stands on stays until that is gone.
		if err := command.Run(ctx, o.command("image", "rm", old)); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// command is a call of podman.
func (o *Options) command(args ...string) command.Cmd {
	return command.Cmd{Argv: append(slices.Clone(o.Podman), args...), Env: o.Env}
}
