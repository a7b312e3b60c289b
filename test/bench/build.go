package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/OSInside/eos/internal/command"
)

// measureBuild builds images twice: with an empty cache, and with nothing changed.
func measureBuild(ctx context.Context, l *lab) error {
	names := []string{"minimal"}
	if l.full {
		names = append(names, "eos")
	}
	for _, name := range names {
		if err := l.buildTwice(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// buildOutput is what eos build prints.
type buildOutput struct {
	Outputs []struct {
		Kind string `json:"kind"`
		Path string `json:"path"`
		Size int64  `json:"size"`
	} `json:"outputs"`
	Timings []struct {
		Stage   string  `json:"stage"`
		Seconds float64 `json:"seconds"`
	} `json:"timings"`
}

func (l *lab) buildTwice(ctx context.Context, name string) error {
	dir, err := os.MkdirTemp(l.dir, "cold-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cache := filepath.Join(dir, "cache")
	if err := os.Mkdir(cache, 0o755); err != nil {
		return err
	}
	title := "images/" + name + ".yaml"
	if !l.tools {
		tree := l.tree.Path("/")
		if err := os.Symlink(tree, filepath.Join(cache, filepath.Base(tree))); err != nil {
			return err
		}
	}
	build := func() (*buildOutput, time.Duration, error) {
		began := time.Now()
		text, err := command.Output(ctx, command.Cmd{
			Argv: []string{filepath.Join(l.bin, "eos"), "build", "-f", title, "-o", filepath.Join(dir, "out"), "--json"},
			Env:  []string{"EOS_KEYS=" + l.keys(), "EOS_CACHE=" + cache},
		})
		took := time.Since(began)
		if err != nil {
			return nil, 0, err
		}
		var out buildOutput
		if err := json.Unmarshal(text, &out); err != nil {
			return nil, 0, fmt.Errorf("read what eos build printed: %w", err)
		}
		return &out, took, nil
	}
	l.note("building %s with an empty cache", title)
	out, cold, err := build()
	if err != nil {
		return err
	}
	fetch := figure{Unit: "seconds"}
	for _, t := range out.Timings {
		if t.Stage == "bootstrap" {
			fetch.Value = t.Seconds
		}
	}
	what := "cold"
	if l.tools {
		what = "cold, tools tree too"
	}
	l.add(seconds(title+", "+what, cold).with("of it mmdebstrap", fetch))
	_, warm, err := build()
	if err != nil {
		return err
	}
	l.add(seconds(title+", again, nothing changed", warm))
	archive, err := l.rootArchive(cache)
	if err != nil {
		return err
	}
	for _, o := range out.Outputs {
		switch o.Kind {
		case "slot":
			l.add(size(name+" slot image", o.Size).with("tar of its packages", archive))
		case "qcow2":
			l.add(size(name+" disk image (qcow2)", o.Size))
		}
	}
	return nil
}

// rootArchive is the size of what mmdebstrap has made.
func (l *lab) rootArchive(cache string) (figure, error) {
	found, err := filepath.Glob(filepath.Join(cache, "root-*.tar"))
	if err != nil || len(found) != 1 {
		return figure{}, fmt.Errorf("find the root archive in %s: %d found", cache, len(found))
	}
	fi, err := os.Stat(found[0])
	if err != nil {
		return figure{}, err
	}
	return size("", fi.Size()), nil
}
