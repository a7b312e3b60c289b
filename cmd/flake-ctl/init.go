package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

func (a *app) init() *cobra.Command {
	var isUser, force bool
	c := &cobra.Command{
		Use: "init", Short: "Make the caller's settings for flakes of his own", Args: cobra.NoArgs,
		Long: "Makes ~/.config/flakes.yml and ~/.config/flakes with settings for podman. What is there already is kept.",
		RunE: func(*cobra.Command, []string) error {
			switch {
			case !isUser:
				return cli.Refuse(cli.Failure, errors.New("init: the system needs no settings"), "flake-ctl init --user makes those of a user")
			case a.at.uid == 0:
				return cli.Refuse(cli.Failure, errors.New("init --user: root's flakes are those of the system"), "call it as the user whose flakes they are to be")
			}
			return a.runInit(force)
		},
	}
	c.Flags().BoolVar(&isUser, "user", false, "for the caller")
	c.Flags().BoolVar(&force, "force", false, "write files that are there again")
	return c
}

const userConfig = `---
generic:
  flakes_dir: %[1]s
  podman_ids_dir: /tmp/flakes
  firecracker_ids_dir: /tmp/flakes
  podman_storage_conf: %[1]s/podman/storage.conf
`

// userStorage is where podman keeps what is of the user. The images of the slot are not among
// it: their files belong to root, who has no number in a container of another user.
const userStorage = `[storage]
driver = "overlay"
graphroot = "%[1]s/podman/storage"
rootless_storage_path = "%[1]s/podman/storage"
runroot = "%[1]s/podman/storage/runroot"
`

func (a *app) runInit(force bool) error {
	dir := filepath.Join(a.at.home, ".config/flakes")
	// Podman unpacks what it pulls in the last one, where the settings of the system say so.
	for _, name := range []string{"podman", "firecracker", "podman/storage/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("make folder for flakes: %w", err)
		}
	}
	storage, storageText := filepath.Join(dir, "podman/storage.conf"), fmt.Sprintf(userStorage, dir)
	for _, f := range []struct{ path, text string }{
		{storage, storageText}, // what names it comes after it
		{a.at.configFile(), fmt.Sprintf(userConfig, dir)},
	} {
		if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) && !force {
			a.note("%s is there already, and is kept", f.path)
			continue
		}
		if err := renameio.WriteFile(f.path, []byte(f.text), 0o644); err != nil {
			return fmt.Errorf("write settings: %w", err)
		}
	}
	fmt.Fprintf(a.env.Stdout, "export CONTAINERS_STORAGE_CONF=%s\n", storage)
	return nil
}
