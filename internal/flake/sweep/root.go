package sweep

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// usual is podman's folder of root's.
const usual = "/var/lib/containers/storage"

// Root finds podman's folder in the first of its settings that there is; empty if that does
// not say it in so many words. Those of a user may have another one for users.
func Root(files []string, isUser bool) string {
	root := usual
	if isUser {
		root = ""
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if file == "" || os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return ""
		}
		var said struct {
			Storage struct {
				Root   string `toml:"graphroot"`
				OfUser string `toml:"rootless_storage_path"`
			} `toml:"storage"`
		}
		if err := toml.Unmarshal(text, &said); err != nil {
			return ""
		}
		if said.Storage.Root != "" {
			root = said.Storage.Root
		}
		if said.Storage.OfUser != "" && isUser {
			root = said.Storage.OfUser
		}
		break
	}
	if !filepath.IsAbs(root) || strings.ContainsAny(root, "$\\") {
		return ""
	}
	return root
}
