package earlyboot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/OSInside/eos/internal/device"
)

// writeReport writes the boot description. It is parsed again before it is
// written: every program of the system relies on what Parse checks.
func writeReport(path string, d *device.Device) error {
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err
	}
	if _, err := device.Parse(b); err != nil {
		return fmt.Errorf("internal error: boot description: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
