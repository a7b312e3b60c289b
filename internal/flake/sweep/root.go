package sweep

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
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
		said := settings(text)
		if v, ok := said["graphroot"]; ok {
			root = v
		}
		if v, ok := said["rootless_storage_path"]; ok && isUser {
			root = v
		}
		break
	}
	if !filepath.IsAbs(root) || strings.ContainsAny(root, "$\\") {
		return ""
	}
	return root
}

// settings are the plain texts of the section storage.
func settings(text []byte) map[string]string {
	out := map[string]string{}
	section := ""
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != "[storage]" {
			continue
		}
		value = strings.TrimSpace(value)
		// What is no plain text is no path either.
		if len(value) > 1 && strings.ContainsRune(`"'`, rune(value[0])) {
			end := strings.IndexByte(value[1:], value[0])
			if end < 0 {
				value = "?"
			} else {
				value = value[1 : end+1]
			}
		} else {
			value = "?"
		}
		out[strings.TrimSpace(key)] = value
	}
	return out
}
