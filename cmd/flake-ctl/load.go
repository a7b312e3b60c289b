package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/command"
)

func (a *app) load() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "load", Short: "Take a container out of an archive", Args: cobra.NoArgs,
		Long: "Has podman load the archive of a container. If there is no such file, it is the last, in the order of\n" +
			"the alphabet, of those whose names begin like this.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runLoad(cmd.Context(), file) },
	}
	c.Flags().StringVar(&file, "oci", "", "`file` of the archive, or the beginning of its name")
	_ = c.MarkFlagRequired("oci")
	return c
}

func (a *app) runLoad(ctx context.Context, given string) error {
	file, err := findArchive(given)
	if err != nil {
		return err
	}
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	c := a.podman(w, "load", "--input", file)
	c.Stdout, c.Stderr = a.env.Stdout, a.env.Stderr
	if err := command.Run(ctx, c); err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return a.settle(ctx, w)
}

// findArchive returns the file of this name, or the last whose name begins with it.
func findArchive(given string) (string, error) {
	_, err := os.Stat(given)
	if err == nil {
		return given, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find archive: %w", err)
	}
	dir, begin := filepath.Split(given)
	entries, listed := os.ReadDir(filepath.Join(".", dir))
	if filepath.IsAbs(given) {
		entries, listed = os.ReadDir(dir)
	}
	if listed != nil {
		return "", fmt.Errorf("find archive: %w", err)
	}
	last := ""
	for _, e := range entries { // sorted
		if begin != "" && strings.HasPrefix(e.Name(), begin) && !e.IsDir() {
			last = dir + e.Name()
		}
	}
	if last == "" {
		return "", fmt.Errorf("find archive: %w", err)
	}
	return last, nil
}
