package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagespec"
)

// appInfo is an application as eos app list --json prints it.
type appInfo struct {
	Name    string `json:"name"`
	Base    string `json:"base,omitempty"`
	File    string `json:"file"`
	Archive string `json:"archive,omitempty"` // empty: not built
	Size    int64  `json:"size,omitempty"`
}

func newAppListCommand(env *cli.Env) *cobra.Command {
	var outDir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [FOLDER]",
		Short: "List the applications that are described",
		Long: `Lists the container descriptions in a folder, apps if none is given: name, base, and the size of
the archive that eos app build has made of it.`,
		Example: `  eos app list
  eos app list --json | jq -r '.[].name'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := listApps(append(args, "apps")[0], outDir)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(env.Stdout, list)
			}
			w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tBASE\tSIZE\tDESCRIPTION")
			for _, a := range list {
				base, size := a.Base, "not built"
				if base == "" {
					base = "-"
				}
				if a.Archive != "" {
					size = humanize.IBytes(uint64(a.Size))
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.Name, base, size, a.File)
			}
			return w.Flush()
		},
	}
	c.Flags().StringVarP(&outDir, "output", "o", "out", "`folder` with the archives")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	_ = c.MarkFlagDirname("output")
	return c
}

// listApps reads the container descriptions in a folder, in the order of their files.
func listApps(dir, outDir string) ([]appInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list applications: %w", err)
	}
	list := []appInfo{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if ext := filepath.Ext(path); e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("list applications: %w", err)
		}
		if imagespec.KindOf(text) != imagespec.KindContainer {
			continue
		}
		s, err := imagespec.LoadContainer(path)
		if err != nil {
			return nil, err
		}
		a := appInfo{Name: s.Name, File: path}
		if s.BaseSpec != nil {
			a.Base = s.BaseSpec.Name
		}
		archive := filepath.Join(outDir, s.Name+".oci.tar")
		if fi, err := os.Stat(archive); err == nil {
			a.Archive, a.Size = archive, fi.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list applications: %w", err)
		}
		list = append(list, a)
	}
	return list, nil
}
